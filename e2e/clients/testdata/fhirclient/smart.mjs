// What an app does with the SMART client, once it is told where the server is.
import assert from 'node:assert/strict';
import FHIR from 'fhirclient';

const client = FHIR({}, {}).client({ serverUrl: process.env.BASE });

assert.equal((await client.request('metadata')).resourceType, 'CapabilityStatement');
const made = await client.create({ resourceType: 'Patient', active: true, name: [{ family: 'Smart' }] });
assert.ok(made.id && made.meta.versionId);
assert.equal((await client.request(`Patient/${made.id}`)).name[0].family, 'Smart');
const found = await client.request('Patient?family=Smart', { flat: true });
assert.deepEqual(found.map((p) => p.id), [made.id]);
const updated = await client.update({ ...made, active: false });
assert.notEqual(updated.meta.versionId, made.meta.versionId);
const patched = await client.patch(`Patient/${made.id}`, [{ op: 'replace', path: '/active', value: true }]);
assert.equal(patched.active, true);

const hook = {
  resourceType: 'Subscription', status: 'active', reason: 'test', criteria: 'Patient?family=Smart',
  channel: { type: 'rest-hook', endpoint: 'http://127.0.0.1:9/', payload: 'application/fhir+json' },
};
const subscription = await client.create(hook);
assert.equal((await client.request(`Subscription/${subscription.id}`)).status, 'active');
await client.update({ ...subscription, status: 'off' });
await client.delete(`Subscription/${subscription.id}`);
await client.delete(`Patient/${made.id}`);
const gone = await client.request(`Patient/${made.id}`).catch((e) => e);
assert.match(String(gone), /410|Gone/i);
