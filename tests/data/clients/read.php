<?php
// Ask a server for invoices, one path after the other, and print what may be shown of each reply.
require __DIR__ . '/../../../examples/php/amwal.php';

$shown = [];
for ($number = 0; $number < (int) $argv[2]; $number++) {
    try {
        $session = (new Amwal("$argv[1]/$number", 'key'))->createInvoice('1', 'Order');
        $shown[] = [$session['invoiceId'], $session['url'], $session['QR'] !== null];
    } catch (AmwalError) {
        $shown[] = null;
    }
}
echo json_encode($shown, JSON_UNESCAPED_SLASHES);
