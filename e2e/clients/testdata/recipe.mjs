// The recipe of Medplum's page "Subscription Extensions" (Apache-2.0, Medplum contributors) for
// JavaScript, without Express: its JSON parser is JSON.parse.
import * as crypto from 'node:crypto';
import { readFileSync } from 'node:fs';

const { headers, body } = JSON.parse(readFileSync(0));
const req = { headers, body: JSON.parse(Buffer.from(body, 'base64')) };
const secret = process.env.SECRET;
const signature = crypto.createHmac('sha256', secret).update(JSON.stringify(req.body)).digest('hex');
console.log(signature === req.headers['x-signature'] ? 'verified' : 'refused');
