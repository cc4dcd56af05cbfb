import type { FastifyInstance } from 'fastify';
import type { Access } from './access.ts';
import type { Authentication } from './authentication.ts';
import { addBody, destroyBody, listBody, revokeBody } from './bodies.ts';
import { checkBody } from './check-body.ts';

/** The calls with which owners show, add, take back and destroy. Each is logged with who did what to which secret. */
export function accessCalls(app: FastifyInstance, authentication: Authentication, access: Access): void {
  app.post('/api/access/list', async (request) => {
    const client = await authentication.client(request);
    const { secret_path: path } = checkBody(listBody, request.body);
    return { success: true, message: 'who may use what', artefacts: await access.list(client, path) };
  });

  app.post('/api/access/grant', async (request) => {
    const client = await authentication.client(request);
    const body = checkBody(addBody, request.body);
    const granted = await access.add(client, body);
    request.log.info({ ...body, ...granted, client }, 'grant to clients added');
    return { success: true, message: 'these clients may use it in their jobs', ...granted };
  });

  app.post('/api/access/revoke', async (request) => {
    const client = await authentication.client(request);
    const body = checkBody(revokeBody, request.body);
    const taken = await access.revoke(client, body);
    request.log.info({ ...body, ...taken, client }, 'grants taken back');
    return { success: true, message: 'taken back; keys that were read cannot be', ...taken };
  });

  app.post('/api/access/destroy', async (request) => {
    const client = await authentication.client(request);
    const { secret_path: path } = checkBody(destroyBody, request.body);
    await access.destroy(client, path);
    request.log.info({ client, secret: path }, 'secret destroyed');
    return { success: true, message: 'destroyed; keys that were read cannot be called back' };
  });
}
