import assert from 'node:assert/strict';
import { z } from 'zod';
import { containerOf, Site } from '../support/site.ts';
import { VaultOwner } from '../support/owner.ts';
import { quote } from '../../src/shell.ts';

const outcomes = z.array(z.object({ what: z.string(), answer: z.string() }));

/**
 * What whoever has taken over the HPCS server can do: programs run in its container, as its user, with its own code, its identity
 * and its configuration.
 */
describe('an HPCS server that was taken over', function () {
  this.timeout(120_000);
  const resources = new AsyncDisposableStack();
  let site: Site;
  let owner: VaultOwner;

  before(async function () {
    this.timeout(1_800_000);
    site = resources.use(await Site.open());
    owner = resources.use(await VaultOwner.open(site));
  });

  after(() => resources.disposeAsync());

  /** Tries things one after the other. @returns the answer to each: `allowed`, or the code of the refusal */
  const attempts = async (prelude: string, tries: Readonly<Record<string, string>>): Promise<Record<string, string>> => {
    const program = `
      import { Secret } from '/app/src/secret.ts';
      import { GrpcClient } from '/app/src/identity/grpc.ts';
      import { loadServerConfig } from '/app/src/server/config.ts';
      import { ownCertificate, ownToken, spireReach } from '/app/src/server/reach.ts';
      import { Spire } from '/app/src/server/spire.ts';
      import { readCa } from '/app/src/http.ts';
      import { Vault } from '/app/src/vault.ts';
      const config = await loadServerConfig('/etc/hpcs/hpcs-server.conf');
      const outcomes = [];
      const attempt = async (what, action) => {
        try { outcomes.push({ what, answer: (await action()) ?? 'allowed' }); }
        catch (error) { outcomes.push({ what, answer: String(error.code) + ' ' + error.message }); }
      };
      ${prelude}
      ${Object.entries(tries)
        .map(([what, code]) => `await attempt(${JSON.stringify(what)}, async () => { ${code} });`)
        .join('\n')}
      console.log(JSON.stringify(outcomes));
      process.exit(0);`;
    const ran = await site.run(`node --input-type=module-typescript -e ${quote(program)}`, '', containerOf('hpcsServer'));
    assert.equal(ran.code, 0, ran.stderr);
    return Object.fromEntries(outcomes.parse(JSON.parse(ran.stdout)).map(({ what, answer }) => [what, answer]));
  };
  const allAllowed = (found: Record<string, string>): void => {
    for (const [what, answer] of Object.entries(found)) assert.equal(answer, 'allowed', what);
  };
  const allRefusedBySpire = (found: Record<string, string>): void => {
    for (const [what, answer] of Object.entries(found)) assert.match(answer, /PERMISSION_DENIED: authorization denied/, what);
  };

  describe('at SPIRE', () => {
    const spire = `
      using spire = new Spire(spireReach(config));
      const id = (path) => ({ trustDomain: config['spire-server']['trust-domain'], path });
      const entry = (path, parent = '/h/confined', more = {}) =>
        ({ spiffeId: id(path), parentId: id(parent), selectors: [{ type: 'unix', value: 'uid:77' }], jwtSvidTtl: 300, ...more });`;

    it('has no way to the private socket, where everybody is an administrator', async () => {
      const { stdout } = await site.run('ls /run; id -u', '', containerOf('hpcsServer'));
      assert.ok(!stdout.includes('spire-admin') && stdout.includes('spire-agent'), stdout);
      assert.ok(stdout.endsWith('10080\n'));
    });

    it('may do its work', async () => {
      const found = await attempts(spire, {
        'the identity of a client': `await spire.mintJwtSvid(id('/c/0123456ff/workload'), ['vault'], 60);`,
        'that of a job': `await spire.mintJwtSvid(id('/c/0123456ff/j/1-aa'), ['vault'], 60);`,
        'readers on a node, and without them': `await spire.deleteEntries(await spire.createEntries([entry('/c/0123456ff/s/data.tgz')]));`,
        'the workload of a client': `await spire.deleteEntries(await spire.createEntries([entry('/c/0123456ff/workload', '/c/0123456ff')]));`,
        'who reads a secret': `await spire.listEntries(id('/c/0123456ff/s/data.tgz'));`,
        'an agent of a node': `await spire.createJoinToken(id('/h/confined'), 60);`,
      });
      allAllowed(found);
    });

    it('gets no identity but those of clients and jobs, for its own services, and short ones', async () => {
      const mint = (path: string, more = `['vault'], 60`): string =>
        `await spire.mintJwtSvid(id(${JSON.stringify(path)}), ${more});`;
      const found = await attempts(spire, {
        'its own': mint('/hpcs-server/workload'),
        'an administrator': mint('/admin'),
        'SPIRE itself': mint('/spire/server'),
        'one that looks alike': mint('/x/c/0123456ff/workload'),
        'one with more behind it': mint('/c/0123456ff/workload/more'),
        'one with a line break': mint('/c/0123456ff/workload\n'),
        'a node': mint('/h/confined'),
        'for a service of somebody else': mint('/c/0123456ff/workload', `['payroll'], 60`),
        'for one of somebody else beside its own': mint('/c/0123456ff/workload', `['vault', 'payroll'], 60`),
        'for a day': mint('/c/0123456ff/workload', `['vault'], 86400`),
        'for as long as SPIRE likes': mint('/c/0123456ff/workload', `['vault'], 0`),
        'another trust domain': `await spire.mintJwtSvid({ trustDomain: 'other.example', path: '/c/0123456ff/workload' }, ['vault'], 60);`,
      });
      allRefusedBySpire(found);
    });

    it('makes no entries with rights, outside of its own, or for long', async () => {
      const create = (what: string): string => `await spire.createEntries([${what}]);`;
      const found = await attempts(spire, {
        'an administrator of SPIRE': create(`entry('/c/0123456ff/s/x', '/h/confined', { admin: true })`),
        'itself as an administrator': create(`entry('/hpcs-server/workload', '/hpcs-server/agent', { admin: true })`),
        'a downstream authority': create(`entry('/c/0123456ff/s/x', '/h/confined', { downstream: true })`),
        'an identity of somebody else': create(`entry('/payroll')`),
        'a reader below an agent of somebody else': create(`entry('/c/0123456ff/s/x', '/spire/agent/join_token/x')`),
        'the workload of one client below the agent of another': create(`entry('/c/0123456ff/workload', '/c/fffffffff')`),
        'one of somebody else among its own': create(`entry('/c/0123456ff/s/x'), entry('/payroll')`),
        'for a day': create(`entry('/c/0123456ff/s/x', '/h/confined', { jwtSvidTtl: 86400 })`),
        'for as long as SPIRE likes': create(`entry('/c/0123456ff/s/x', '/h/confined', { jwtSvidTtl: 0 })`),
        'under an id that is not marked as its own': create(`entry('/c/0123456ff/s/x', '/h/confined', { id: 'server.1' })`),
      });
      allRefusedBySpire(found);
    });

    it('neither sees nor deletes entries of others, and makes no agents of others', async () => {
      const socket = '-socketPath /run/spire-admin/api.sock';
      const show = `/opt/spire/bin/spire-server entry show ${socket} -spiffeID spiffe://sandbox.hpcs/hpcs-server/workload`;
      const before = await site.run(show, 'root', containerOf('spireServer'));
      const [, foreign] = /Entry ID +: (\S+)/.exec(before.stdout) ?? [];
      assert.ok(foreign);
      const found = await attempts(spire, {
        'deletes one': `await spire.deleteEntries([${JSON.stringify(foreign)}]);`,
        'deletes one among its own': `await spire.deleteEntries(['hpcs.x', ${JSON.stringify(foreign)}]);`,
        'looks at one': `await spire.listEntries(id('/hpcs-server/workload'));`,
        'makes an agent that its own identity hangs on': `await spire.createJoinToken(id('/hpcs-server/agent'), 60);`,
        'makes an agent of no name': `await spire.createJoinToken(null, 60);`,
        'makes an agent for a day': `await spire.createJoinToken(id('/h/confined'), 86400);`,
      });
      allRefusedBySpire(found);
      assert.equal((await site.run(show, 'root', containerOf('spireServer'))).stdout, before.stdout);
    });

    it('that knows no agent mode: finds and deletes the readers that there are, and makes none', async () => {
      const policy = await site.run(
        'cd /tmp && node /app/bin/dev.js server spire-policy --config /etc/hpcs/hpcs-server.conf --no-agent-mode >&2 && cat policy-data.json',
        '',
        containerOf('hpcsServer'),
      );
      assert.equal(policy.code, 0, policy.stderr);
      // Another SPIRE server beside the first: each reads its policy when it starts.
      const identity = 'spiffe://sandbox.hpcs/hpcs-server/workload';
      const started = await site.run(
        `set -eu; rm -rf /tmp/other; mkdir /tmp/other; cd /tmp/other
        printf %s ${quote(policy.stdout)} > policy-data.json
        sed -e 's/8081/18081/' -e 's#/var/lib/spire#/tmp/other#g' -e 's#^  socket_path = .*#  socket_path = "/tmp/other/api.sock"#' \
          -e 's#/etc/spire/policy-data.json#/tmp/other/policy-data.json#' /etc/spire/server.conf > server.conf
        spire=/opt/spire/bin/spire-server
        setsid $spire run -config server.conf > log 2>&1 & echo $! > pid
        for _ in $(seq 100); do $spire healthcheck -socketPath api.sock > healthy 2>&1 && break; sleep 0.1; done
        $spire entry create -socketPath api.sock -entryID hpcs.older -parentID spiffe://sandbox.hpcs/h/old \
          -spiffeID spiffe://sandbox.hpcs/c/0123456ff/s/older -selector unix:uid:77 >&2
        $spire x509 mint -socketPath api.sock -spiffeID ${identity} -write . >&2
        cat svid.pem; echo =; cat key.pem; echo =; cat bundle.pem`,
        'root',
        containerOf('spireServer'),
      );
      try {
        assert.equal(started.code, 0, started.stderr);
        const [cert, key, authorities] = started.stdout.split('\n=\n');
        const svid = JSON.stringify({ spiffeId: identity, cert, key, authorities });
        const prelude = `
          const id = (path) => ({ trustDomain: 'sandbox.hpcs', path });
          const { address } = spireReach(config);
          const svid = async () => ({ ...${svid}, expires: new Date(Date.now() + 600_000) });
          using spire = new Spire({ address, port: 18081, trustDomain: 'sandbox.hpcs', svid });`;
        const reader = `{ spiffeId: id('/c/0123456ff/s/x'), parentId: id('/h/x'), selectors: [{ type: 'unix', value: 'uid:77' }], jwtSvidTtl: 300 }`;
        allAllowed(
          await attempts(prelude, {
            'the identity of a job': `await spire.mintJwtSvid(id('/c/0123456ff/j/1-aa'), ['vault'], 60);`,
            'who reads a secret': `const [{ id: found }] = await spire.listEntries(id('/c/0123456ff/s/older')); return found === 'hpcs.older' ? undefined : found;`,
            'no reader any more': `await spire.deleteEntries(['hpcs.older']); return (await spire.listEntries(id('/c/0123456ff/s/older'))).length ? 'still there' : undefined;`,
          }),
        );
        allRefusedBySpire(
          await attempts(prelude, {
            'a reader': `await spire.createEntries([${reader}]);`,
            'an agent of a node': `await spire.createJoinToken(id('/h/x'), 60);`,
            'an entry of somebody else': `await spire.deleteEntries(['server.1']);`,
          }),
        );
      } finally {
        await site.run('kill "$(cat /tmp/other/pid)"; rm -rf /tmp/other', 'root', containerOf('spireServer'));
      }
    });

    it('calls no other method', async () => {
      const prelude = `
        import { openChannel } from '/app/src/identity/grpc.ts';
        const { cert: certificate, key, authorities } = await ownCertificate(config);
        const { address, port } = spireReach(config);
        const tls = { certificate, key: new Secret(key), authorities, server: 'spiffe://sandbox.hpcs/spire/server' };
        const call = async (service, method) => {
          using client = new GrpcClient(openChannel('dns:' + address + ':' + port, tls), 'spire.api.server.' + service,
            { [method]: { requestType: 'Empty', responseType: 'Empty' } }, { Empty: { fields: {} } });
          await client.call(method, {}, { timeout: 5000 });
        };`;
      const methods = [
        ['svid.v1.SVID', 'MintX509SVID'],
        ['svid.v1.SVID', 'BatchNewX509SVID'],
        ['svid.v1.SVID', 'NewDownstreamX509CA'],
        ['entry.v1.Entry', 'ListEntries'],
        ['entry.v1.Entry', 'GetEntry'],
        ['entry.v1.Entry', 'BatchUpdateEntry'],
        ['entry.v1.Entry', 'GetAuthorizedEntries'],
        ['agent.v1.Agent', 'ListAgents'],
        ['agent.v1.Agent', 'BanAgent'],
        ['agent.v1.Agent', 'DeleteAgent'],
        ['bundle.v1.Bundle', 'AppendBundle'],
        ['bundle.v1.Bundle', 'PublishJWTAuthority'],
        ['trustdomain.v1.TrustDomain', 'BatchCreateFederationRelationship'],
        ['localauthority.v1.LocalAuthority', 'RevokeX509Authority'],
      ] as const;
      const tries = methods.map(([service, method]): [string, string] => [method, `await call('${service}', '${method}');`]);
      allRefusedBySpire(await attempts(prelude, Object.fromEntries(tries)));
    });
  });

  describe('at the vault', () => {
    const login = `
      const { url, 'ca-file': caFile, namespace } = config.vault;
      const ca = await readCa(caFile);
      const place = new Vault({ url, ca, namespace });
      const root = new Vault({ url, ca });
      const own = await place.login('hpcs-server', await ownToken(config));
      const ask = (session, method, path, body) => async () => {
        const { status } = await session.request(method, '/v1/' + path, body);
        return status < 400 ? 'allowed' : String(status);
      };`;

    it('has a token that reads no keys, and administers no more than it must', async () => {
      const path = 'client_0123456ff/secret';
      assert.equal((await owner.ask('POST', `kv/data/${path}`, { data: { key: 'K' } })).status, 200);
      const found = await attempts(login, {
        'reads a key': `return ask(own, 'GET', 'kv/data/${path}')();`,
        'writes one': `return ask(own, 'POST', 'kv/data/${path}', { data: {} })();`,
        'lists clients': `return ask(own, 'LIST', 'kv/metadata')();`,
        'changes its own policy': `return ask(own, 'POST', 'sys/policies/acl/hpcs-server', { policy: 'path "*" { capabilities = ["sudo"] }' })();`,
        'changes its own role': `return ask(own, 'POST', 'auth/jwt/role/hpcs-server', { token_ttl: 99999 })();`,
        'believes other issuers': `return ask(own, 'POST', 'auth/jwt/config', { jwks_url: 'https://elsewhere.example' })();`,
        'mounts something': `return ask(own, 'POST', 'sys/mounts/other', { type: 'kv' })();`,
        'makes a token': `return ask(own, 'POST', 'auth/token/create', {})();`,
        'makes a namespace': `return ask(own, 'POST', 'sys/namespaces/inner', {})();`,
        'sees what records it': `return ask(own, 'GET', 'sys/audit')();`,
      });
      await owner.ask('DELETE', `kv/metadata/${path}`);
      // Audit devices are no matter of namespaces at all: 400.
      for (const [what, answer] of Object.entries(found))
        assert.match(answer, what === 'sees what records it' ? /^40[03]$/ : /^403$/, what);
    });

    it('leaves no root token behind: what administers the vault is a token that can be revoked', async () => {
      const { body } = await owner.ask('GET', 'auth/token/lookup-self');
      const { data } = body as { data: { policies: string[]; path: string } };
      assert.ok(!data.policies.includes('root'), data.policies.join());
    });
  });
});
