import assert from 'node:assert/strict';
import type { AddressInfo } from 'node:net';
import { Validator } from '@seriousme/openapi-schema-validator';
import { OpenAPIClientAxios, type Document } from 'openapi-client-axios';
import { calls } from '../../../src/server/calls.ts';
import { openApi } from '../../../src/server/openapi.ts';
import { clientToken, lonelyApi } from '../../support/api.ts';

describe('the OpenAPI document', () => {
  it('is one', async () => {
    const { valid, errors } = await new Validator().validate(structuredClone(openApi()));
    assert.ok(valid, JSON.stringify(errors));
  });

  it('has every route of the server, and none that there is not', async () => {
    await using app = lonelyApi();
    await app.ready();
    // Fastify prints a tree: what stands further in goes on where the line above it ended.
    const above: string[] = [];
    const routes = app
      .printRoutes({ commonPrefix: false })
      .split('\n')
      .flatMap((line) => {
        const [, indent = '', part = '', methods] = /^(.*── )(\S+)(?: \((.*)\))?$/.exec(line) ?? [];
        const depth = indent.length / 4 - 1;
        above[depth] = (depth === 0 ? '' : (above[depth - 1] ?? '')) + part;
        return (methods ?? '').split(', ').map((method) => `${method} ${above[depth]}`);
      })
      .filter((route) => /^(GET|POST|PUT|PATCH|DELETE) /.test(route));
    assert.deepEqual(routes.toSorted(), Object.keys(calls).toSorted());
    const { paths } = openApi() as { paths: Record<string, object> };
    assert.equal(Object.values(paths).flatMap(Object.keys).length, routes.length);
  });

  it('says of each name what the server asks of it', () => {
    const text = JSON.stringify(openApi());
    assert.match(text, /"secret":\{"type":"string","maxLength":200,"pattern":"\^\[a-z0-9\]/);
    assert.doesNotMatch(text, /"\$schema"/);
  });

  it('says of each call what shows who calls', () => {
    const { paths } = openApi() as { paths: Record<string, { post: { security: object[] } }> };
    const names = (path: string): string[] => (paths[path]?.post.security ?? []).flatMap(Object.keys);
    assert.deepEqual(names('/api/client/logout'), ['dpop']);
    assert.deepEqual(names('/api/jobs/end'), ['dpop', 'jwtSvid', 'x509Svid']);
    assert.deepEqual(names('/api/jobs/redeem'), []);
  });

  it('says what is answered of grants', () => {
    const answer = (call: string) => (calls[call]?.answer as { shape?: object } | undefined)?.shape ?? {};
    assert.deepEqual(Object.keys(answer('POST /api/access/grant')), ['success', 'message', 'grant', 'clients']);
    assert.deepEqual(Object.keys(answer('POST /api/access/revoke')), ['success', 'message', 'revoked', 'readers', 'still']);
  });

  it('makes a client that calls the server', async () => {
    await using app = lonelyApi();
    await app.listen({ port: 0, host: '127.0.0.1' });
    const url = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`;
    const definition = (await (await fetch(`${url}/api/openapi.json`)).json()) as Document;
    const made = new OpenAPIClientAxios({
      definition,
      withServer: { url },
      axiosConfigDefaults: { validateStatus: () => true, proxy: false },
    });
    const client = await made.init();
    const able = await client['capabilities']?.();
    assert.equal(able?.status, 200);
    assert.ok((able.data as { capabilities: string[] }).capabilities.includes('jobs'));
    const node = await client['nodeToken']?.({ hostname: '../x' });
    assert.equal(node?.status, 400);
    const jwt = await clientToken('hpcs-server');
    const grant = { jwt, secret: 'x', users: ['u'], groups: null, compute_nodes: ['n'] };
    // There is no vault: all that a caller says was right.
    assert.equal((await client['createWorkloads']?.(undefined, grant))?.status, 503);
    assert.equal((await client['createWorkloads']?.(undefined, { ...grant, secret: '../x' }))?.status, 400);
    assert.equal((await client['endJob']?.(undefined, { ticket: 'x' }))?.status, 401);
  });

  it('answers nothing that is not as it says', async () => {
    await using app = lonelyApi({ trustBundle: async () => 1 as unknown as string });
    const answer = await app.inject('/api/trust-bundle');
    assert.equal(answer.statusCode, 500);
    assert.match(answer.body, /internal error/);
  });
});
