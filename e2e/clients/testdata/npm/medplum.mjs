// $resend as Medplum's documentation invokes it.
import assert from 'node:assert/strict';

globalThis.WebSocket ??= class extends EventTarget {}; // Node has one from version 22 on; unused here
const { MedplumClient } = await import('@medplum/core');

const as = (accessToken) => {
  const medplum = new MedplumClient({ baseUrl: process.env.BASE, accessToken });
  return (id, options) => medplum.post(medplum.fhirUrl('Patient', id, '$resend'), options);
};
const resend = as(process.env.ADMIN);

const outcome = await resend('a', { verbose: true, interaction: 'update', subscription: 'Subscription/123' });
assert.deepEqual(outcome, {
  resourceType: 'OperationOutcome', id: 'ok',
  issue: [{ severity: 'information', code: 'informational', details: { text: 'All OK' } }],
});
assert.equal((await resend('a', {})).id, 'ok'); // to all of them

const code = (answer) => answer.then(() => 'accepted', (error) => error.outcome.issue[0].code);
assert.equal(await code(resend('a', { interaction: 'bogus' })), 'value');
assert.equal(await code(resend('a', { subscription: 'Subscription/unknown' })), 'not-found');
assert.equal(await code(resend('unknown', {})), 'not-found');
assert.equal(await code(as(process.env.READER)('a', {})), 'forbidden');
