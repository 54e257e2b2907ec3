/** The program that the test of the plugin runs: one call in, one result out. */

import { buffer } from 'node:stream/consumers';
import { conformanceRouter } from 'blueprint-runner/conformance';
import { createHandler } from 'blueprint-runner/handler';

const request = { headers: { 'content-type': 'application/json' }, body: await buffer(process.stdin) };
const response = await createHandler(conformanceRouter()).handle(request);
process.stdout.write(response.body);
