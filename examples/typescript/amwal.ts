/**
 * A client for the amwal.exchange payment gateway: it creates invoices and reads callbacks.
 *
 *     const session = await createInvoice(config, { amount: '12.50', header: 'Order A-1042' });
 *     // Store session.invoiceId and the SHA-256 of session.secret with the order. Only then show session.url.
 *
 *     const callback = parseCallback(body); // in the handler of your callback URL
 *     // Find the order by the SHA-256 of callback.secret. Store the payment, and answer 200 after the commit.
 *
 * Copy this file anywhere: it needs Node 22.18 or newer, and nothing else. The rules are those of Dukkan's
 * docs/any-language.md; the fields are described in docs/protocol.md.
 *
 * Rule 5: whoever holds an invoice's secret can confirm its payment. It is part of no error, and nothing is logged.
 *
 * SPDX-License-Identifier: MIT
 */

import { setTimeout as sleep } from 'node:timers/promises';

/** `paymentOrigins`: where payment pages may be, as `https://host`, with the port if it is not the usual one. */
export type Config = { projectUrl: string; apiKey: string; paymentOrigins?: string[] | undefined };
/** `amount`: a decimal such as '12.50', in the currency of the project. */
export type Invoice = { amount: string; header: string; description?: string; successUrl?: string; cancelUrl?: string };
/** `QR`: a picture of `url`, as a data:image/png;base64 URI; null where the gateway's can't be used. */
export type Session = { invoiceId: string; url: string; QR: string | null; secret: string };

/** Something went wrong between us and the gateway. */
export class AmwalError extends Error {
  retryable = false; // whether the same call can succeed later without anybody changing anything
  retryAfter = 0; // seconds; NaN if the gateway gave a date
}

const DEADLINE = 6000; // milliseconds for one invoice, retries and all
export const CALLBACK_LIMIT = 8 * 1024; // bytes; for the handler that reads the body

const isText = (value: unknown, most = 200): value is string =>
  typeof value === 'string' && value.length <= most && /^[!-~]+$/.test(value);
/** A picture with or without the prefix, as both are published. A PNG is told by its first bytes. */
const PNG = /^(?:data:image\/png;base64,)?(iVBORw0KGgoAAAANSUhEU[A-Za-z0-9+/]+={0,2})$/;

/** Create an invoice, or throw an AmwalError, within 6 seconds. */
export async function createInvoice(config: Config, { amount, ...texts }: Invoice): Promise<Session> {
  if (!/^(0|[1-9]\d{0,11})(\.\d{1,8})?$/.test(amount)) throw new AmwalError('the amount is no decimal such as 12.50');
  // Rule 1: the digits as they are. A number would make 0.1 + 0.2 into 0.30000000000000004.
  const body = JSON.stringify(texts, (_name, text) => text || undefined).replace('{', `{"amount":${amount},`);
  // Rule 3: one deadline for all tries, with every byte of their replies.
  const [signal, until] = [AbortSignal.timeout(DEADLINE), performance.now() + DEADLINE];
  for (let attempt = 0; ; attempt++) {
    const reply = await put(config, body, signal).catch((error: AmwalError) => error);
    if (typeof reply === 'string') return readSession(reply, config.paymentOrigins);
    // Rule 4: two retries if the outcome is unknown. An invoice that never reached us was shown to nobody.
    const pause = Math.max(reply.retryAfter * 1000, (100 + Math.random() * 200) * 2 ** attempt);
    if (!reply.retryable || attempt === 2 || !(performance.now() + pause < until - 500)) throw reply; // NaN as well
    await sleep(pause);
  }
}

async function put({ projectUrl, apiKey }: Config, body: string, signal: AbortSignal): Promise<string> {
  try {
    const headers = new Headers({ 'Content-Type': 'application/json', 'Accept-Encoding': 'identity' });
    headers.set('Authorization', `Bearer ${apiKey}`);
    // Rule 3: no redirect is followed, as the key would go wherever it leads; and a compressed reply is not read.
    const response = await fetch(projectUrl, { method: 'PUT', headers, body, signal, redirect: 'manual' });
    if (!response.ok || response.headers.has('Content-Encoding')) {
      response.body?.cancel().catch(() => {}); // some versions of Node crash if a connection ends with its body unread
      const retryable = response.status === 429 || response.status >= 500; // rule 4: never after a 401
      const retryAfter = Number(response.headers.get('Retry-After'));
      const what = response.ok ? 'a compressed reply' : `HTTP ${response.status}`;
      throw Object.assign(new AmwalError(`the gateway answered with ${what}`), { retryable, retryAfter });
    }
    let reply = ''; // a character for each byte: all that is used of the reply is ASCII
    for await (const piece of response.body ?? []) {
      reply += Buffer.from(piece).toString('latin1');
      if (reply.length > 256 * 1024) throw new AmwalError('the reply is too large'); // rule 3: no more is read
    }
    return reply;
  } catch (error: any) {
    if (error instanceof AmwalError) throw error;
    // Only a code is passed on: the texts of other errors can quote the API key.
    // No retry helps against a wrong certificate or setting.
    const code: string = signal.aborted ? 'took too long' : (error.cause?.code ?? (error.cause ?? error).name);
    throw Object.assign(new AmwalError(`no reply: ${code}`), { retryable: !/CERT|LEAF|URL|^(Type)?Error$/.test(code) });
  }
}

/** Rule 2: a session only from a reply that is right in every field. */
function readSession(reply: string, origins = ['https://amwal.exchange']): Session {
  const { err, data } = readJson(reply);
  if (err !== 0) throw new AmwalError(`the gateway refused the invoice (err ${typeof err === 'number' ? err : '?'})`);
  const { invoiceId, url, secret, QR } = Object(data);
  if (!isText(invoiceId) || !isText(secret) || !isText(url, 2000)) throw new AmwalError('a field is missing, or no plain text');
  if (shows(`${url} ${invoiceId}`, secret)) throw new AmwalError('the link or the id shows the secret');
  // The start of the link is compared as text, because parsers disagree about odd addresses.
  const isAllowed = /^https?:[^\\<>"'`]+$/.test(url) && origins.some((origin) => url.startsWith(`${origin}/`));
  const origin = url.split('/', 3).join('/').slice(0, 80);
  if (!isAllowed) throw new AmwalError(`the link leads to ${origin}, and may to ${origins} only`);
  const png = typeof QR === 'string' && QR.length <= 87_406 && PNG.exec(QR)?.[1]; // 64 KiB, in base64 with the prefix
  return { invoiceId, url, secret, QR: png ? `data:image/png;base64,${png}` : null };
}

/** Rule 5: whether a text has the secret: as it is, without its dashes, percent-encoded several times, or in base64. */
function shows(text: string, secret: string): boolean {
  const byte = (_: string, hex: string) => String.fromCharCode(parseInt(hex, 16));
  while (/%[0-9a-f]{2}/i.test(text)) text = text.replace(/%([0-9a-f]{2})/gi, byte);
  const bare = (value: string) => value.replace(/[^a-z0-9]/gi, '').toLowerCase();
  // Base64 depends on the bytes before: three cases. The groups at the edges hold bits of the neighbours.
  const coded = [secret, bare(secret)].flatMap((one) => ['', '0', '00'].map((before) =>
    Buffer.from(before + one).toString('base64url').slice(before ? 4 : 0, -4)));
  const usual = text.replaceAll('+', '-').replaceAll('/', '_');
  return bare(text).includes(bare(secret)) || coded.some((one) => one.length > 8 && usual.includes(one));
}

/**
 * Read a callback's body, or throw an AmwalError. Whether its secret is known is the caller's question (rule 7).
 * Ids that are missing or of no use are ''.
 */
export function parseCallback(body: string | Buffer): { secret: string; invoiceId: string; paymentSessionId: string } {
  if (Buffer.byteLength(body) > CALLBACK_LIMIT) throw new AmwalError('the callback is too large');
  const { secret, invoiceId, paymentSessionId } = readJson(String(body));
  if (!isText(secret)) throw new AmwalError('the secret is missing, or no plain text');
  return { secret, invoiceId: readId(invoiceId), paymentSessionId: readId(paymentSessionId) };
}

/** Rule 10: the right secret means real money, so an odd id doesn't turn it away. Numbers count, blanks don't. */
function readId(id: unknown): string {
  const text = typeof id === 'string' || Number.isSafeInteger(id) ? String(id).replace(/[\s\p{C}]/gu, '') : '';
  return text.length <= 200 ? text : '';
}

function readJson(text: string): Record<string, unknown> {
  try {
    return Object(JSON.parse(text)); // anything but an object becomes one without fields
  } catch {
    throw new AmwalError('no JSON'); // the parser's message quotes the text, and with it the secret
  }
}
