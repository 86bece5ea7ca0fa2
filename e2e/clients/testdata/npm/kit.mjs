// What a program does with a FHIR server by fhir-kit-client.
import assert from 'node:assert/strict';
import { Client } from 'fhir-kit-client';

const client = new Client({ baseUrl: process.env.BASE });
const patient = { resourceType: 'Patient', active: true, name: [{ family: 'Kit', given: ['Ada'] }] };

const statement = await client.capabilityStatement();
assert.equal(statement.fhirVersion, process.env.FHIR_VERSION);

const made = await client.create({
  resourceType: 'Subscription',
  body: {
    resourceType: 'Subscription', status: 'active', reason: 'test', criteria: 'Patient?family=Kit',
    channel: { type: 'rest-hook', endpoint: process.env.ENDPOINT, payload: 'application/fhir+json' },
  },
});
assert.equal((await client.read({ resourceType: 'Subscription', id: made.id })).status, 'active');

const created = await client.create({ resourceType: 'Patient', body: patient });
assert.ok(created.id && created.meta.versionId);
assert.deepEqual(await client.read({ resourceType: 'Patient', id: created.id }), created);
assert.deepEqual(await client.vread({ resourceType: 'Patient', id: created.id, version: created.meta.versionId }), created);

const found = await client.search({ resourceType: 'Patient', searchParams: { family: 'Kit', _id: created.id } });
assert.deepEqual(found.entry.map((e) => e.resource.id), [created.id]);
const posted = await client.search({ resourceType: 'Patient', searchParams: { _id: created.id }, options: { postSearch: true } });
assert.equal(posted.total, 1);

const updated = await client.update({ resourceType: 'Patient', id: created.id, body: { ...created, name: [{ family: 'Other' }] } });
assert.notEqual(updated.meta.versionId, created.meta.versionId);
const patched = await client.patch({
  resourceType: 'Patient', id: created.id, jsonPatch: [{ op: 'replace', path: '/active', value: false }],
});
assert.equal(patched.active, false);
const history = await client.history({ resourceType: 'Patient', id: created.id });
assert.equal(history.entry.length, 3);

await client.delete({ resourceType: 'Patient', id: created.id });
const gone = await client.read({ resourceType: 'Patient', id: created.id }).catch((e) => e);
assert.equal(gone.response?.status, 410);
assert.equal(gone.response?.data.resourceType, 'OperationOutcome');
const unknown = await client.read({ resourceType: 'Patient', id: 'unknown' }).catch((e) => e);
assert.equal(unknown.response?.status, 404);

const answer = await client.transaction({
  body: {
    resourceType: 'Bundle', type: 'transaction',
    entry: [
      { fullUrl: 'urn:uuid:2f1c9a52-0a33-4b57-8f7c-0f6f8e9b8d11', resource: { resourceType: 'Patient' }, request: { method: 'POST', url: 'Patient' } },
      {
        resource: { resourceType: 'Basic', code: { text: 'x' }, subject: { reference: 'urn:uuid:2f1c9a52-0a33-4b57-8f7c-0f6f8e9b8d11' } },
        request: { method: 'POST', url: 'Basic' },
      },
    ],
  },
});
assert.equal(answer.type, 'transaction-response');
assert.ok(answer.entry.every((e) => e.response.status.startsWith('201')));

await client.update({ resourceType: 'Subscription', id: made.id, body: { ...made, status: 'off' } });
await client.delete({ resourceType: 'Subscription', id: made.id });
