import { z } from 'zod';
import { addBody, destroyBody, listBody, loginBody, revokeBody, nodeBody, endBody, enrolBody, jobBody, nodeQuery, permitBody, redeemBody, registerBody, resolveBody, tokenBody, workloadsBody } from './bodies.ts'; // prettier-ignore

/** One call of the API, as it is checked and as it is described. */
export interface Call {
  /** Name for generated clients. */
  operation: string;
  summary: string;
  /** What shows who calls: nothing, one of the proofs that clients have, or that of a key alone. */
  caller: 'anyone' | 'client' | 'key';
  body?: z.ZodType;
  query?: z.ZodObject;
  /** The answer when all is well. */
  answer: z.ZodType;
}

const success = z.object({ success: z.literal(true), message: z.string() });
const clientId = z.string().regex(/^[0-9a-f]{9}$/);
const grantId = z.string().regex(/^[0-9a-f]{8}$/);
const spiffeId = z.string().startsWith('spiffe://');
const joinToken = success.extend({ spiffeID: spiffeId, token: z.string() });
const readers = { spiffeID: spiffeId, clientID: clientId, secrets_path: z.string(), user_role: z.string() };
const states = z.looseObject({ success: z.boolean() });

/** What every refusal says. */
export const refusal = z.object({
  success: z.literal(false),
  message: z.string(),
  /** Where a caller does something about it: `key-ended` and `key-conflict`, come with another key. */
  code: z.string().optional(),
});

/**
 * All calls by method and path. The same schemas check requests (in the handlers) and answers, and are what the OpenAPI document
 * shows. A call that is not here is not in the document; a test sees to it that none is missing.
 */
export const calls: Readonly<Record<string, Call>> = {
  'POST /api/client/register': {
    operation: 'register',
    summary: 'Makes a client of anyone who asks. Only with --allow-legacy-registration.',
    caller: 'anyone',
    body: registerBody,
    answer: joinToken.extend({ client_id: clientId }),
  },
  'POST /api/agents/token': {
    operation: 'nodeToken',
    summary:
      'A join token for the agent of a compute node: for clients, of allowed hosts (body); or with --allow-legacy-registration (query).',
    caller: 'anyone',
    query: nodeQuery.partial(),
    body: nodeBody.optional(),
    answer: joinToken,
  },
  'POST /api/client/create-workloads': {
    operation: 'createWorkloads',
    summary: 'Agent mode: lets users and groups on nodes read one secret of the client whose JWT-SVID is in the body.',
    caller: 'anyone',
    body: workloadsBody,
    answer: success.extend({
      ...readers,
      compute_nodes_added: z.record(z.string(), z.object({ users: z.array(z.string()), groups: z.array(z.string()) })),
    }),
  },
  'POST /api/client/enrol': {
    operation: 'enrol',
    summary: 'Enrols the key of the proof (DPoP) that the call comes with, for a one-time token.',
    caller: 'anyone',
    body: enrolBody,
    answer: success.extend({ client_id: clientId, name: z.string(), spiffeID: spiffeId, trust_domain: z.string() }),
  },
  'GET /api/login': {
    operation: 'issuers',
    summary: 'The OpenID Connect issuers whose tokens clients may log in with.',
    caller: 'anyone',
    answer: success.extend({ issuers: z.array(z.unknown()) }),
  },
  'POST /api/client/login': {
    operation: 'login',
    summary:
      'Makes the key of the proof (DPoP) that the call comes with one of the client that an ID token names, until the session ends.',
    caller: 'anyone',
    body: loginBody,
    answer: success.extend({
      client_id: clientId,
      name: z.string(),
      spiffeID: spiffeId,
      trust_domain: z.string(),
      expires: z.string(),
    }),
  },
  'POST /api/client/logout': {
    operation: 'logout',
    summary: 'Ends the session of the key of the proof (DPoP) that the call comes with.',
    caller: 'key',
    answer: success,
  },
  'POST /api/client/token': {
    operation: 'token',
    summary: 'A JWT-SVID of the calling client, for the vault or this server.',
    caller: 'client',
    body: tokenBody,
    answer: success.extend({ spiffeID: spiffeId, token: z.string() }),
  },
  'POST /api/client/resolve': {
    operation: 'resolve',
    summary: 'The ids that names of clients stand for; null for a name that is nobody’s.',
    caller: 'client',
    body: resolveBody,
    answer: success.extend({ clients: z.record(z.string(), clientId.nullable()) }),
  },
  'POST /api/client/grants': {
    operation: 'grant',
    summary: 'Lets clients and groups of them use one secret of the caller in their jobs.',
    caller: 'client',
    body: permitBody,
    answer: success.extend({ ...readers, clients: z.record(z.string(), clientId), groups: z.array(z.string()) }),
  },
  'POST /api/jobs': {
    operation: 'registerJob',
    summary: 'Registers a submitted job with the hash of its ticket and its artefacts.',
    caller: 'client',
    body: jobBody,
    answer: success.extend({ spiffeID: spiffeId, expires: z.string() }),
  },
  'POST /api/jobs/redeem': {
    operation: 'redeem',
    summary: 'Trades a ticket for the records of its job, sealed to a key of the job.',
    caller: 'anyone',
    body: redeemBody,
    answer: success.extend({ records: z.base64() }),
  },
  'POST /api/jobs/end': {
    operation: 'endJob',
    summary: 'Ends a job of the caller, and destroys its own secret.',
    caller: 'client',
    body: endBody,
    answer: success.extend({ stolen: z.boolean(), redeemed: z.boolean() }),
  },
  'POST /api/access/list': {
    operation: 'listAccess',
    summary: 'Who may use which secrets of the caller.',
    caller: 'client',
    body: listBody,
    answer: success.extend({ artefacts: z.array(z.unknown()) }),
  },
  'POST /api/access/grant': {
    operation: 'addAccess',
    summary: 'Lets more clients and groups use a secret of the caller.',
    caller: 'client',
    body: addBody,
    answer: success.extend({ grant: grantId, clients: z.record(z.string(), clientId) }),
  },
  'POST /api/access/revoke': {
    operation: 'revokeAccess',
    summary: 'Takes grants of the caller back.',
    caller: 'client',
    body: revokeBody,
    answer: success.extend({ revoked: z.int(), readers: z.int(), still: z.array(z.string()) }),
  },
  'POST /api/access/destroy': {
    operation: 'destroy',
    summary: 'Destroys a secret of the caller.',
    caller: 'client',
    body: destroyBody,
    answer: success,
  },
  'GET /api/capabilities': {
    operation: 'capabilities',
    summary: 'What this server can beyond the calls of the original.',
    caller: 'anyone',
    answer: success.extend({ capabilities: z.array(z.string()), trust_domain: z.string() }),
  },
  'GET /api/trust-bundle': {
    operation: 'trustBundle',
    summary: 'The authorities of the SPIRE server, PEM.',
    caller: 'anyone',
    answer: success.extend({ trust_bundle: z.string() }),
  },
  'GET /api/openapi.json': {
    operation: 'openapi',
    summary: 'This document.',
    caller: 'anyone',
    answer: z.looseObject({ openapi: z.string() }),
  },
  'GET /healthz': { operation: 'healthz', summary: 'Whether this server is alive.', caller: 'anyone', answer: states },
  'GET /readyz': {
    operation: 'readyz',
    summary: 'Whether SPIRE and the vault are usable; 503 with the code of what is wrong where not.',
    caller: 'anyone',
    answer: states,
  },
};
