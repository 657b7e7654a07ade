<?php

declare(strict_types=1);

/**
 * A client for the amwal.exchange payment gateway: it creates invoices and reads callbacks.
 *
 *     $session = (new Amwal($projectUrl, $apiKey))->createInvoice(amount: '12.50', header: 'Order A-1042');
 *     // Store $session['invoiceId'] and the SHA-256 of $session['secret'] with the order. Only then show the 'url'.
 *
 *     $callback = Amwal::parseCallback($body); // in the handler of your callback URL
 *     // Find the order by the SHA-256 of $callback['secret']. Store the payment, and answer 200 after the commit.
 *
 * Copy this file anywhere: it needs PHP 8.1 or newer with curl, and nothing else. The rules are those of Dukkan's
 * docs/any-language.md; the fields are described in docs/protocol.md.
 *
 * Rule 5: whoever holds an invoice's secret can confirm its payment. It is part of no error, and nothing is logged.
 *
 * SPDX-License-Identifier: MIT
 */
final class Amwal
{
    public const CALLBACK_LIMIT = 8 * 1024; // bytes; for the handler that reads the body
    /** A picture with or without the prefix, as both are published. A PNG is told by its first bytes. */
    private const PNG = '~\A(?:data:image/png;base64,)?(iVBORw0KGgoAAAANSUhEU[A-Za-z0-9+/]++={0,2})\z~';

    /** @param string[] $paymentOrigins where payment pages may be, as `https://host`, with the port if it is unusual */
    public function __construct(
        private string $projectUrl, #[SensitiveParameter] private string $apiKey,
        private array $paymentOrigins = ['https://amwal.exchange'],
    ) {}

    /**
     * Create an invoice, or throw an AmwalError, within 6 seconds.
     *
     * @param string $amount a decimal such as '12.50', in the currency of the project
     * @return array{invoiceId: string, url: string, secret: string, QR: ?string} where QR is a picture of the url, as a
     *     data:image/png;base64 URI, or null if the gateway's can't be used
     */
    public function createInvoice(
        string $amount, string $header, string $description = '', string $successUrl = '', string $cancelUrl = '',
    ): array {
        preg_match('/\A(0|[1-9]\d{0,11})(\.\d{1,8})?\z/', $amount) || throw new AmwalError('the amount is no decimal');
        $texts = ['header' => $header] + array_filter(compact('description', 'successUrl', 'cancelUrl'), strlen(...));
        // Rule 1: the digits as they are. A number would make 0.1 + 0.2 into 0.30000000000000004.
        $body = '{"amount":' . $amount . ',' . substr(json_encode($texts, JSON_INVALID_UTF8_SUBSTITUTE), 1);
        $until = hrtime(true) / 1e9 + 6; // rule 3: seconds for all tries together, with every byte of their replies
        for ($attempt = 0; ; $attempt++) {
            try {
                return $this->readSession($this->put($body, $until));
            } catch (AmwalError $error) {
                // Rule 4: two retries if the outcome is unknown. An invoice that never reached us was shown to nobody.
                $pause = max($error->retryAfter, random_int(100, 300) / 1000 * 2 ** $attempt);
                $error->retryable && $attempt < 2 && hrtime(true) / 1e9 + $pause < $until - 0.5 || throw $error;
                usleep((int) ($pause * 1e6));
            }
        }
    }

    private function put(string $body, float $until): string
    {
        [$reply, $curl] = ['', curl_init($this->projectUrl)];
        // Rule 3: CURLOPT_FOLLOWLOCATION stays off, as the key would go wherever a redirect leads. So does
        // CURLOPT_ENCODING: a reply that is compressed several times keeps curl busy far beyond its timeout.
        // The text of an error isn't read. No proxy is used: environment variables must not reroute our requests.
        curl_setopt_array($curl, [
            CURLOPT_CUSTOMREQUEST => 'PUT', CURLOPT_POSTFIELDS => $body, CURLOPT_FAILONERROR => true,
            CURLOPT_HTTPHEADER => ["Authorization: Bearer $this->apiKey", 'Content-Type: application/json',
                'Accept-Encoding: identity'],
            CURLOPT_PROTOCOLS => CURLPROTO_HTTP | CURLPROTO_HTTPS, CURLOPT_PROXY => '',
            CURLOPT_TIMEOUT_MS => max(1, (int) (($until - hrtime(true) / 1e9) * 1000)), // 0 would be no limit
            CURLOPT_WRITEFUNCTION => function ($curl, string $piece) use (&$reply): int {
                $reply .= $piece;
                return strlen($reply) <= 256 * 1024 ? strlen($piece) : -1; // rule 3: no more is read
            },
        ]);
        $error = curl_exec($curl) ? 0 : curl_errno($curl);
        // CURLINFO_RETRY_AFTER, in seconds, has no name before PHP 8.2.
        [$status, $retryAfter] = [curl_getinfo($curl, CURLINFO_RESPONSE_CODE), curl_getinfo($curl, 6291513)];
        $isBusy = $status === 429 || $status >= 500; // rule 4: no retry after a 401
        $status < 300 || throw new AmwalError("the gateway answered HTTP $status", $isBusy, $retryAfter);
        $error !== CURLE_WRITE_ERROR || throw new AmwalError('the reply is too large');
        // No retry helps against a wrong protocol (1), address (3) or certificate (60).
        $error === 0 || throw new AmwalError('no reply: ' . curl_strerror($error), !in_array($error, [1, 3, 60], true));
        return $reply;
    }

    /** Rule 2: a session only from a reply that is right in every field. */
    private function readSession(#[SensitiveParameter] string $reply): array
    {
        ['err' => $err, 'data' => $data] = (array) json_decode($reply, true) + ['err' => null, 'data' => null];
        $isRefused = $err !== 0 && $err !== 0.0;
        $isRefused && throw new AmwalError('the reply has no invoice: err is ' . (is_int($err) ? $err : 'no number'));
        [$invoiceId, $url] = [self::text($data['invoiceId'] ?? null), self::text($data['url'] ?? null, 2000)];
        $secret = self::text($data['secret'] ?? null);
        self::shows("$url $invoiceId", $secret) && throw new AmwalError('link or id contain the secret');
        // The start of the link is compared as text, because parsers disagree about odd addresses.
        $origins = array_filter($this->paymentOrigins, fn (string $origin) => str_starts_with($url, "$origin/"));
        $origins && preg_match('~\Ahttps?:[^\\\\<>"\'`]+\z~', $url) || throw new AmwalError('wrong host in the link');
        // Up to 64 KiB: that is 87,406 characters in base64, with the prefix.
        $isPng = is_string($qr = $data['QR'] ?? 0) && strlen($qr) <= 87_406 && preg_match(self::PNG, $qr, $png);
        return compact('invoiceId', 'url', 'secret') + ['QR' => $isPng ? "data:image/png;base64,$png[1]" : null];
    }

    /** Rule 5: whether a text has the secret: plain, without dashes, percent-encoded several times, or in base64. */
    private static function shows(#[SensitiveParameter] string $text, #[SensitiveParameter] string $secret): bool
    {
        while ($text !== ($decoded = rawurldecode($text))) { $text = $decoded; }
        $bare = fn (string $value): string => strtolower(preg_replace('/[^a-z0-9]/i', '', $value));
        $usual = strtr($text, '-_', '+/');
        // Base64 depends on the bytes before: three cases. The groups at the edges hold bits of the neighbours.
        foreach (['', '0', '00'] as $before) {
            foreach ([$secret, $bare($secret)] as $one) {
                $coded = substr(base64_encode($before . $one), $before === '' ? 0 : 4, -4);
                if (strlen($coded) > 8 && str_contains($usual, $coded)) { return true; }
            }
        }
        return str_contains($bare($text), $bare($secret));
    }

    /**
     * Read a callback's body, or throw an AmwalError. Whether its secret is known is the caller's question (rule 7).
     *
     * @return array{secret: string, invoiceId: string, paymentSessionId: string} where ids that can't be used are ''
     */
    public static function parseCallback(#[SensitiveParameter] string $body): array
    {
        strlen($body) <= self::CALLBACK_LIMIT || throw new AmwalError('the callback is too large');
        $said = json_decode($body, true, 512, JSON_BIGINT_AS_STRING);
        $secret = self::text($said['secret'] ?? null);
        // Rule 10: the right secret means real money, so an odd id doesn't turn it away. Numbers count, blanks don't.
        $plain = fn (mixed $id) => is_string($id) || is_int($id) ? preg_replace('/[\s\pC]/u', '', (string) $id) : '';
        $id = fn (mixed $id) => strlen($text = $plain($id) ?? '') <= 200 ? $text : '';
        [$invoiceId, $paymentSessionId] = array_map($id, [$said['invoiceId'] ?? '', $said['paymentSessionId'] ?? '']);
        return compact('secret', 'invoiceId', 'paymentSessionId');
    }

    private static function text(#[SensitiveParameter] mixed $value, int $most = 200): string
    {
        $isText = is_string($value) && strlen($value) <= $most && preg_match('/\A[!-~]+\z/', $value);
        return $isText ? $value : throw new AmwalError('a field is missing, or no plain text');
    }
}

/** Something went wrong between us and the gateway. */
final class AmwalError extends RuntimeException
{
    /**
     * @param bool $retryable whether the same call can succeed later without anybody changing anything
     * @param int $retryAfter seconds
     */
    public function __construct(protected $message, public bool $retryable = false, public int $retryAfter = 0) {}
}
