// A client of the shape in the gateway's own documentation.
import axios from 'axios';

const response = await axios.put(
  process.env.PROJECT_URL,
  { amount: 12.5, header: 'Order A-1042', successUrl: 'https://shop.example/orders/1042' },
  { headers: { Authorization: `Bearer ${process.env.API_KEY}` } },
);
const invoice = response.data.data;
console.log(invoice.invoiceId, invoice.url);
