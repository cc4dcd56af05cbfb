import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import { HpcsError } from '../errors.ts';
import { calls, refusal, type Call } from './calls.ts';

type Json = Record<string, unknown>;

const proofs: Json = {
  dpop: {
    type: 'apiKey',
    in: 'header',
    name: 'DPoP',
    description:
      'A proof of possession of the enrolled key (RFC 9449), with a claim `body`: the SHA-256 of the body, base64url. Good once.',
  },
  jwtSvid: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT', description: 'A JWT-SVID of the client’s workload.' },
  x509Svid: { type: 'mutualTLS', description: 'An X.509-SVID of the client’s workload.' },
};

const provenBy: Readonly<Record<Call['caller'], readonly string[]>> = {
  anyone: [],
  client: Object.keys(proofs),
  key: ['dpop'],
};

const statuses: Readonly<Record<string, string>> = {
  400: 'a value is wrong',
  401: 'who calls is not shown, or not validly',
  403: 'the caller may not',
  404: 'there is no such thing',
  409: 'something else is there already',
  413: 'the body is too long',
  422: 'a record is not the one that the job was submitted with',
  429: 'too many requests; Retry-After says when the next is answered',
  500: 'a fault of this server',
  502: 'SPIRE or the vault refused',
  503: 'SPIRE or the vault is down, sealed or cut off: try again',
};

/**
 * The description of the API, from the schemas that check requests and answers.
 *
 * @see OpenAPI Specification 3.1.0
 */
export function openApi(described: Readonly<Record<string, Call>> = calls): Json {
  const paths: Record<string, Json> = {};
  for (const [name, call] of Object.entries(described)) {
    const [method = '', path = ''] = name.split(' ');
    paths[path] = { ...paths[path], [method.toLowerCase()]: operation(call) };
  }
  return {
    openapi: '3.1.0',
    info: { title: 'HPCS server', version: '1', description: 'Identities and grants for confidential jobs.' },
    servers: [{ url: '/' }],
    paths,
    components: {
      securitySchemes: proofs,
      responses: Object.fromEntries(
        Object.entries(statuses).map(([status, why]) => [
          `refused${status}`,
          { description: `Not done: ${why}`, content: json(refusal) },
        ]),
      ),
    },
  };
}

function operation({ operation: operationId, summary, caller, body, query, answer }: Call): Json {
  const parameters = Object.entries(query?.shape ?? {}).map(([name, schema]) => ({
    name,
    in: 'query',
    required: !(schema as z.ZodType).safeParse(undefined).success,
    schema: schemaOf(schema as z.ZodType),
  }));
  return {
    operationId,
    summary,
    security: provenBy[caller].map((name) => ({ [name]: [] })),
    ...(parameters.length > 0 && { parameters }),
    ...(body !== undefined && { requestBody: { required: !body.safeParse(undefined).success, content: json(body) } }),
    responses: {
      200: { description: 'Done', content: json(answer) },
      ...Object.fromEntries(Object.keys(statuses).map((status) => [status, { $ref: `#/components/responses/refused${status}` }])),
    },
  };
}

function json(schema: z.ZodType): Json {
  return { 'application/json': { schema: schemaOf(schema) } };
}

function schemaOf(schema: z.ZodType): Json {
  // As it travels: what a schema makes of a value is nobody else's concern.
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' });
  return rest;
}

/** Serves the document, and checks every answer that says that all is well against what is described. */
export function describeApi(app: FastifyInstance): void {
  const text = JSON.stringify(openApi());
  app.get('/api/openapi.json', async (_request, reply) => reply.type('application/json').send(text));
  app.addHook('preSerialization', async (request, reply, payload) => {
    const call = calls[`${request.method} ${request.routeOptions.url ?? ''}`];
    if (call === undefined || reply.statusCode !== 200) return payload;
    const checked = call.answer.safeParse(payload);
    if (checked.success) return payload;
    // Its content may be a secret.
    const where = checked.error.issues[0]?.path.join('.') ?? '';
    throw new HpcsError('bug', 'bug', `the answer to ${call.operation} is not as described: ${where}`);
  });
}
