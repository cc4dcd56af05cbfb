import type { FastifyInstance } from 'fastify';
import { Secret } from '../secret.ts';
import type { Authentication } from './authentication.ts';
import { checkBody } from './check-body.ts';
import type { Jobs } from './jobs.ts';
import { endBody, jobBody, redeemBody } from './bodies.ts';

/** The calls about jobs with identities of their own. */
export function jobCalls(app: FastifyInstance, authentication: Authentication, jobs: Jobs): void {
  app.post('/api/jobs', async (request) => {
    const client = await authentication.client(request);
    const body = checkBody(jobBody, request.body);
    const { spiffeId, expires } = await jobs.register(client, body);
    request.log.info({ client, spiffeId, artefacts: body.artefacts.map((one) => one.secret_path), expires }, 'job registered');
    return { success: true, message: 'job registered', spiffeID: spiffeId, expires };
  });

  app.post('/api/jobs/redeem', async (request) => {
    const { halves, job, key } = checkBody(redeemBody, request.body);
    using scriptHalf = new Secret(halves[0]);
    using fileHalf = new Secret(halves[1]);
    const proven = request.headers['dpop'] !== undefined || request.headers.authorization !== undefined;
    const caller = proven ? await authentication.client(request) : undefined;
    const records = await jobs.redeem({ scriptHalf, fileHalf, job, key }, caller);
    return { success: true, message: 'records sealed to the key', records: Buffer.from(records).toString('base64') };
  });

  app.post('/api/jobs/end', async (request) => {
    const client = await authentication.client(request);
    const ended = await jobs.end(client, checkBody(endBody, request.body).ticket);
    return { success: true, message: 'job ended', ...ended };
  });
}
