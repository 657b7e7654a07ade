/**
 * The smallest right shop: one product, one file, all ten rules of docs/any-language.md.
 *
 * It leaves out what the rules don't need: goods that run out (reserve them at checkout, and give them back in time), a
 * basket, e-mails, pages for the merchant. Settings come from the environment; README.md has the commands.
 */

import { createHash, randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage } from 'node:http';
import { DatabaseSync, type SQLInputValue } from 'node:sqlite';

import { AmwalError, CALLBACK_LIMIT, createInvoice, parseCallback } from './amwal.ts';

const PRICE = '0.30'; // rule 1: exact; the number 0.1 * 3 is 0.30000000000000004
const { PUBLIC_URL: HERE = 'http://127.0.0.1:8000', DATABASE = 'shop.db', AMWAL_PAYMENT_ORIGINS } = process.env;
const { AMWAL_PROJECT_URL: projectUrl, AMWAL_API_KEY: apiKey } = process.env;
if (!projectUrl || !apiKey) throw new Error('AMWAL_PROJECT_URL and AMWAL_API_KEY must be set');
const gateway = { projectUrl, apiKey, paymentOrigins: AMWAL_PAYMENT_ORIGINS?.split(',') };

// While SQLite waits for another program's lock, no request is served. So it waits for a second at most.
const db = new DatabaseSync(DATABASE, { timeout: 1000 });
db.exec(`PRAGMA synchronous = EXTRA;
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
    JOIN payments ON order_id = orders.id GROUP BY orders.id HAVING state <> 'paid' OR count(*) > 1;`);

const run = (sql: string, ...values: SQLInputValue[]) => db.prepare(sql).run(...values);
const findOrder = (where: string, value: string) => db.prepare(`SELECT * FROM orders WHERE ${where}`).get(value);
const digest = (secret: string) => createHash('sha256').update(secret).digest('hex');

type Answer = [status: number, body?: string, headers?: Record<string, string>];
const html = (value: unknown) => String(value).replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
const REFRESH = '<meta http-equiv="refresh" content="3">';
const button = (path: string, text: string) => `<form method="post" action="${path}"><button>${text}</button></form>`;

async function requestInvoice(token: string): Promise<void> {
  const [order, page] = [findOrder('token = ?', token), `${HERE}/orders/${token}`];
  if (order?.state !== 'open' || order.url) return;
  const texts = { header: `Order ${order.id}`, successUrl: `${page}?returned=success`, cancelUrl: page };
  try {
    // Rule 3: no transaction is open during the call, and amwal.ts limits its time and size.
    // Rules 2 and 4: it checks every field of the reply, and repeats what can be repeated.
    const { invoiceId, secret, url, QR } = await createInvoice(gateway, { amount: String(order.amount), ...texts });
    // Of two calls at once the first counts: nobody has seen the other invoice.
    run(`UPDATE orders SET invoice_id = ?, secret_digest = ?, url = ?, qr = ?
      WHERE token = ? AND state = 'open' AND url IS NULL`, invoiceId, digest(secret), url, QR, token);
  } catch (error) {
    console.error(`order ${order.id} has no invoice: ${error}`); // rule 4: the page offers to try again
  }
}

function orderPage(token: string, isBack: boolean): Answer {
  const order = findOrder('token = ?', token);
  if (!order) return [404, 'Not found'];
  const link = `<a href="${html(order.url)}">Pay ${html(order.amount)}</a>${REFRESH}`;
  const picture = order.qr ? `<p><img src="${html(order.qr)}" alt="Payment code">` : '';
  // Rule 6: ?returned=success proves nothing.
  const wait = `Waiting for confirmation. Please don't pay again. <a href="/orders/${token}">Not paid?</a>${REFRESH}`;
  const retry = `There is no payment link yet.${button(`/orders/${token}/invoice`, 'Try again')}`;
  const pay = (order.url ? link + picture : retry) + button(`/orders/${token}/cancellation`, 'Cancel');
  const text = ({ open: isBack ? wait : pay, paid: 'Paid. Thank you.', cancelled: 'Cancelled.',
    review: 'Your payment has arrived. We are looking into it.' } as Record<string, string>)[`${order.state}`];
  return [200, `<!doctype html><html lang="en"><title>Order ${order.id}</title><h1>Order ${order.id}</h1><p>${text}`];
}

async function callback(request: IncomingMessage): Promise<Answer> {
  let body = Buffer.alloc(0);
  // The rest of a large body is discarded as it arrives: closing the connection could lose the answer.
  for await (const piece of request.iterator({ destroyOnReturn: false }))
    if ((body = Buffer.concat([body, piece])).length > CALLBACK_LIMIT) return [413];
  const { secret, invoiceId, paymentSessionId } = parseCallback(body);
  // All requests share the connection. So nothing is awaited before the COMMIT: what other requests write meanwhile
  // would be part of this transaction, and undone with it.
  db.exec('BEGIN IMMEDIATE');
  try {
    const order = findOrder('secret_digest = ?', digest(secret)); // rule 7: only the secret says which order is meant
    if (!order) return [404]; // rule 8: a callback can overtake the reply to our request, and comes again after a 404
    if (invoiceId && invoiceId !== order.invoice_id) return [409];
    run('INSERT INTO payments VALUES (?, ?) ON CONFLICT DO NOTHING', order.id, paymentSessionId); // rule 9
    if (order.state === 'open') run('INSERT INTO deliveries VALUES (?)', order.id);
    // Rule 10: the money is there, even if the order was cancelled.
    run("UPDATE orders SET state = iif(state IN ('open', 'paid'), 'paid', 'review') WHERE id = ?", order.id);
    db.exec('COMMIT');
    return [200]; // rule 8: after the commit
  } finally {
    if (db.isTransaction) db.exec('ROLLBACK');
  }
}

async function answer(request: IncomingMessage): Promise<Answer> {
  // Without a slash at the end: the gateway would count a redirect as a failure.
  const [path = '', query] = (request.url ?? '').replace(/(?<=.)\/(?=\?|$)/, '').split('?');
  let [, token = '', action = ''] = /^\/orders\/([\w-]{22})(\/\w+)?$/.exec(path) ?? [];
  switch (`${request.method} ${token ? `/orders/:token${action}` : path}`) {
    case 'GET /': return [200, `<!doctype html><title>Shop</title>${button('/orders', `Buy for ${PRICE}`)}`];
    case 'GET /orders/:token': return orderPage(token, query === 'returned=success');
    case 'POST /amwal/callback': return callback(request);
    case 'POST /orders':
      token = randomBytes(16).toString('base64url');
      run('INSERT INTO orders (token, amount) VALUES (?, ?)', token, PRICE); // rule 1: first the order
    // and then, as for a new try:
    case 'POST /orders/:token/invoice':
      await requestInvoice(token);
      break;
    case 'POST /orders/:token/cancellation':
      run("UPDATE orders SET state = 'cancelled' WHERE token = ? AND state = 'open'", token);
      break;
    default: return path === '/amwal/callback' ? [405, '', { Allow: 'POST' }] : [404, 'Not found'];
  }
  return [303, '', { Location: `/orders/${token}` }];
}

// A request must arrive within 10 seconds.
createServer({ requestTimeout: 10_000 }, async (request, response) => {
  const [status, body, headers] = await answer(request).catch((error: unknown): Answer => {
    // A request that the client broke off is not worth a line.
    if (request.complete) console.error(error instanceof AmwalError ? `refused: ${error.message}` : error);
    return [error instanceof AmwalError ? 400 : 503]; // a 503 comes again
  });
  request.resume(); // what is left of a body that is too large is read and dropped, so that the connection goes on
  response.writeHead(status, { 'Content-Type': 'text/html; charset=utf-8', ...headers }).end(body);
}).listen(Number(new URL(HERE).port) || 8000, '127.0.0.1', () => console.log(`Shop at ${HERE}`));
