import { createHmac, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';

const key = Buffer.from(process.env.WEBHOOK_SECRET.replace(/^whsec_/, ''), 'base64');
const seen = new Set(); // yours is a table with a unique column, written in the transaction of your work

createServer(async (req, res) => {
  const parts = [];
  for await (const part of req) parts.push(part);
  const body = Buffer.concat(parts); // the bytes as they came, before any parser
  const name = req.headers['webhook-id'], at = req.headers['webhook-timestamp'];
  const want = createHmac('sha256', key).update(`${name}.${at}.`).update(body).digest();
  const signed = (req.headers['webhook-signature'] ?? '').split(' ').filter((s) => s.startsWith('v1,'))
    .map((s) => Buffer.from(s.slice(3), 'base64')).some((s) => s.length === want.length && timingSafeEqual(s, want));
  const fresh = Math.abs(Date.now() / 1000 - Number(at)) < 300;
  if (signed && fresh && !seen.has(name)) {
    console.log(req.method, req.url, body.toString()); // your work
    seen.add(name);
  }
  res.writeHead(signed && fresh ? 204 : 401).end();
}).listen(process.env.PORT, '127.0.0.1');
