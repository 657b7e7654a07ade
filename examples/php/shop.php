<?php

declare(strict_types=1);

/**
 * The smallest right shop: one product, one file, all ten rules of docs/any-language.md.
 *
 * It leaves out what the rules don't need: goods that run out (reserve them at checkout, and give them back in time), a
 * basket, e-mails, pages for the merchant. Settings come from the environment; README.md has the commands.
 */

require __DIR__ . '/amwal.php';

// Rule 5: warnings are not shown and arguments not logged; either could hold a secret.
ini_set('display_errors', '0');
ini_set('zend.exception_ignore_args', '1');

const BUTTON = '<form method="post" action="%s"><button>%s</button></form>';
const REFRESH = '<meta http-equiv="refresh" content="3">';
const PRICE = '0.30'; // rule 1: exact; the float 0.1 * 3 is 0.30000000000000004
const SCHEMA = <<<'SQL'
PRAGMA synchronous = EXTRA;
-- The token can't be guessed. Rule 2: an invoice that is given twice is refused.
-- Rule 5: a digest is enough to recognize the secret, and useless to whoever steals it.
CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, amount TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'paid', 'cancelled', 'review')),
    invoice_id TEXT UNIQUE, secret_digest TEXT UNIQUE, url TEXT, qr TEXT);
-- Rule 9: the same callback again changes nothing.
CREATE TABLE IF NOT EXISTS payments (order_id INTEGER NOT NULL REFERENCES orders, session_id TEXT NOT NULL,
    UNIQUE (order_id, session_id));
-- What is to be delivered. Whoever sends the goods works through it.
CREATE TABLE IF NOT EXISTS deliveries (order_id INTEGER PRIMARY KEY REFERENCES orders);
-- Rule 10: money that the merchant must decide about, paid twice or after the order was cancelled.
CREATE VIEW IF NOT EXISTS attention AS SELECT orders.id, state, count(*) AS payments FROM orders
    JOIN payments ON order_id = orders.id GROUP BY orders.id HAVING state <> 'paid' OR count(*) > 1;
SQL;

/** Run a statement: a transaction of its own, unless one has begun. */
function run(PDO $db, string $sql, mixed ...$values): PDOStatement
{
    ($statement = $db->prepare($sql))->execute($values);
    return $statement;
}

function requestInvoice(PDO $db, string $token): void
{
    $where = "WHERE token = ? AND state = 'open' AND url IS NULL";
    $order = run($db, "SELECT * FROM orders $where", $token)->fetch();
    if (!$order) { return; }
    $page = (getenv('PUBLIC_URL') ?: 'http://127.0.0.1:8000') . "/orders/$token";
    $origins = explode(',', getenv('AMWAL_PAYMENT_ORIGINS') ?: 'https://amwal.exchange');
    $texts = ['header' => "Order $order[id]", 'successUrl' => "$page?returned=success", 'cancelUrl' => $page];
    try {
        // Rule 3: no transaction is open during the call, and amwal.php limits its time and size.
        // Rules 2 and 4: it checks every field of the reply, and repeats what can be repeated.
        $gateway = new Amwal((string) getenv('AMWAL_PROJECT_URL'), (string) getenv('AMWAL_API_KEY'), $origins);
        $session = $gateway->createInvoice($order['amount'], ...$texts);
        $values = [$session['invoiceId'], hash('sha256', $session['secret']), $session['url'], $session['QR'], $token];
        // Of two calls at once the first counts: nobody has seen the other invoice.
        run($db, "UPDATE orders SET invoice_id = ?, secret_digest = ?, url = ?, qr = ? $where", ...$values);
    } catch (AmwalError | PDOException $error) {
        error_log("order $order[id] has no invoice: {$error->getMessage()}"); // rule 4: the page offers to try again
    }
}

function orderPage(PDO $db, string $token, bool $isBack): string
{
    $order = run($db, 'SELECT * FROM orders WHERE token = ?', $token)->fetch();
    $order || throw new DomainException('Not found', 404);
    $values = [$order['amount'], $order['url'] ?? '', $order['qr'] ?? ''];
    [$amount, $url, $qr] = array_map(htmlspecialchars(...), $values);
    $picture = $qr ? "<p><img src=\"$qr\" alt=\"Payment code\">" : '';
    // Rule 6: ?returned=success proves nothing.
    $wait = "Waiting for confirmation. Please don't pay again. <a href=\"/orders/$token\">Not paid?</a>" . REFRESH;
    $link = "<a href=\"$url\">Pay $amount</a>$picture" . REFRESH;
    $retry = 'There is no payment link yet.' . sprintf(BUTTON, "/orders/$token/invoice", 'Try again');
    $text = match ($order['state']) {
        'open' => $isBack ? $wait : ($url ? $link : $retry) . sprintf(BUTTON, "/orders/$token/cancellation", 'Cancel'),
        'paid' => 'Paid. Thank you.',
        'review' => 'Your payment has arrived. We are looking into it.',
        'cancelled' => 'Cancelled.',
    };
    return "<!doctype html><html lang=\"en\"><title>Order $order[id]</title><h1>Order $order[id]</h1><p>$text";
}

function callback(PDO $db): string
{
    $body = file_get_contents('php://input', length: Amwal::CALLBACK_LIMIT + 1);
    strlen($body) <= Amwal::CALLBACK_LIMIT || throw new DomainException('Too large', 413);
    $said = Amwal::parseCallback($body);
    // IMMEDIATE takes the lock now, so writers take turns; beginTransaction() would take it later, and could fail then.
    // Without a COMMIT, the end of the request closes the connection and undoes everything.
    $db->exec('BEGIN IMMEDIATE');
    // Rule 7: only the secret says which order is meant.
    $order = run($db, 'SELECT * FROM orders WHERE secret_digest = ?', hash('sha256', $said['secret']))->fetch();
    // Rule 8: a callback can overtake the reply to our request, and comes again after a 404.
    $order || throw new DomainException('Unknown', 404);
    in_array($said['invoiceId'], ['', $order['invoice_id']], true) || throw new DomainException('Another invoice', 409);
    $insert = 'INSERT INTO payments VALUES (?, ?) ON CONFLICT DO NOTHING'; // rule 9
    run($db, $insert, $order['id'], $said['paymentSessionId']);
    $order['state'] !== 'open' || run($db, 'INSERT INTO deliveries VALUES (?)', $order['id']);
    // Rule 10: the money is there, even if the order was cancelled.
    run($db, "UPDATE orders SET state = iif(state IN ('open', 'paid'), 'paid', 'review') WHERE id = ?", $order['id']);
    $db->exec('COMMIT');
    return ''; // rule 8: the 200 after the commit
}

try {
    getenv('AMWAL_PROJECT_URL') && getenv('AMWAL_API_KEY') || throw new DomainException('AMWAL_… are not set', 503);
    $db = new PDO('sqlite:' . (getenv('DATABASE') ?: 'shop.db'), options: [PDO::ATTR_TIMEOUT => 5]); // seconds
    $db->exec(SCHEMA);
    // Without a slash at the end: the gateway would count a redirect as a failure.
    $path = preg_replace('~(?<=.)/\z~', '', explode('?', $_SERVER['REQUEST_URI'])[0]);
    $isOrder = preg_match('~\A/orders/([\w-]{32})(/\w+)?\z~', $path, $found);
    $token = $found[1] ?? bin2hex(random_bytes(16)); // the order's, or that of a new one
    // The answer is a text, or else a redirect to the order's page.
    $answer = match ($_SERVER['REQUEST_METHOD'] . ' ' . ($isOrder ? '/orders/:token' . ($found[2] ?? '') : $path)) {
        'GET /' => '<!doctype html><title>Shop</title>' . sprintf(BUTTON, '/orders', 'Buy for ' . PRICE),
        'GET /orders/:token' => orderPage($db, $token, ($_GET['returned'] ?? '') === 'success'),
        'POST /amwal/callback' => callback($db),
        // Rule 1: first the order, then the invoice.
        'POST /orders' => [run($db, 'INSERT INTO orders (token, amount) VALUES (?, ?)', $token, PRICE),
            requestInvoice($db, $token)],
        'POST /orders/:token/invoice' => requestInvoice($db, $token),
        'POST /orders/:token/cancellation' =>
            run($db, "UPDATE orders SET state = 'cancelled' WHERE token = ? AND state = 'open'", $token),
        default => throw new DomainException('Not found', $path === '/amwal/callback' ? 405 : 404),
    };
    is_string($answer) ? print $answer : header("Location: /orders/$token", true, 303);
} catch (AmwalError | DomainException | PDOException $error) {
    error_log($error->getMessage());
    $status = $error instanceof AmwalError ? 400 : ($error instanceof PDOException ? 503 : $error->getCode());
    header($status === 405 ? 'Allow: POST' : 'Content-Type: text/plain', response_code: $status);
}
