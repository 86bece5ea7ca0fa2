// Verifies one notification with the reference library, and that it is refused once changed.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { Webhook, WebhookVerificationError } from 'standardwebhooks';

const { headers, body } = JSON.parse(readFileSync(0));
const hook = new Webhook(process.env.SECRET, process.env.FORMAT ? { format: process.env.FORMAT } : undefined);
const text = Buffer.from(body, 'base64').toString();

assert.equal(hook.verify(text, headers).resourceType, 'Patient');

const refused = (payload, changed) =>
  assert.throws(() => hook.verify(payload, { ...headers, ...changed }), WebhookVerificationError);
refused(text.replace('Patient', 'patient'), {});
refused(text + ' ', {});
refused(text, { 'webhook-timestamp': String(Number(headers['webhook-timestamp']) + 1) });
refused(text, { 'webhook-timestamp': String(Number(headers['webhook-timestamp']) - 600) });
refused(text, { 'webhook-id': headers['webhook-id'] + '0' });
refused(text, { 'webhook-signature': headers['webhook-signature'].replaceAll('v1,', 'v1,A') });
