// Ask a server for invoices, one path after the other, and print what may be shown of each reply.
import { createInvoice } from '../../../examples/typescript/amwal.ts';

const [server, count] = process.argv.slice(2);
const shown = [];
for (let number = 0; number < Number(count); number++) {
  const config = { projectUrl: `${server}/${number}`, apiKey: 'key' };
  const session = await createInvoice(config, { amount: '1', header: 'Order' }).catch(() => null);
  shown.push(session && [session.invoiceId, session.url, session.QR !== null]);
}
console.log(JSON.stringify(shown));
