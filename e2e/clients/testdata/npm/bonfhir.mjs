// What an app of @bonfhir/subscriptions does at each start.
import { FetchFhirClient } from '@bonfhir/core/r4b';
import { registerSubscriptions } from '@bonfhir/subscriptions/r4b';

await registerSubscriptions({
  baseUrl: process.env.APP,
  fhirClient: new FetchFhirClient({ baseUrl: process.env.BASE, auth: process.env.AUTHORIZATION }),
  logger: console,
  webhookSecret: 'shared',
  subscriptions: [
    { criteria: 'Patient?', reason: 'Patients are known to the app', endpoint: 'patients' },
    { criteria: 'Appointment?status=booked', reason: 'Appointments are known to the app', endpoint: 'appointments' },
  ],
});
