import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { loadConfig } from '../../src/config.ts';
import { HttpClient, readCa } from '../../src/http.ts';
import { quote } from '../../src/shell.ts';
import type { Part } from '../../src/sandbox/names.ts';
import { enrolMany, Load, metricsOf, shortenLives } from '../support/load.ts';
import { VaultOwner } from '../support/owner.ts';
import { containerOf, Site } from '../support/site.ts';

describe('the HPCS server under load, with a vault token and SVIDs that live a minute', function () {
  this.timeout(300_000);
  const resources = new AsyncDisposableStack();
  let site: Site;
  let api: HttpClient;
  let clients: Awaited<ReturnType<typeof enrolMany>>;

  before(async function () {
    this.timeout(1_800_000);
    site = resources.use(await Site.open());
    const config = await loadConfig(site.configuration);
    const ca = await readCa(config['hpcs-server']['ca-file']);
    api = resources.use(new HttpClient({ url: config['hpcs-server'].url, ca, name: 'HPCS server' }));
    clients = await enrolMany(site, 200);
    for (const client of clients) resources.use(client);
    resources.use(await shortenLives(site));
  });

  after(() => resources.disposeAsync());

  const ready = async (): Promise<{ status: number; parts: Record<string, unknown> }> => {
    const { status, body } = await api.json('GET', '/readyz');
    return { status, parts: body as Record<string, unknown> };
  };
  /** Starts a second server in the same container, with its X.509-SVID as its certificate, and looks at that for some seconds. */
  const ownCertificates = async (seconds: number): Promise<{ serials: string[]; names: string; kept: number }> => {
    const program = `import { loadServerConfig } from '/app/src/server/config.ts'; import { startServer } from '/app/src/server/server.ts';
import { Spire } from '/app/src/server/spire.ts'; import { spireReach } from '/app/src/server/reach.ts'; import { connect } from 'node:tls'; import { once } from 'node:events';
import { Agent, request } from 'node:https';
const config = await loadServerConfig('/etc/hpcs/hpcs-server.conf');
await using server = await startServer({ ...config, listen: { ...config.listen, host: '127.0.0.1', port: 10999 }, tls: { 'x509-svid': true },
  monitoring: undefined }, { allowLegacyRegistration: false, log: false });
using spire = new Spire(spireReach(config));
const tls = { host: '127.0.0.1', port: 10999, ca: (await spire.bundle()).x509, checkServerIdentity: () => undefined };
const agent = new Agent({ keepAlive: true, maxSockets: 1, ...tls });
const call = async () => { const sent = request({ ...tls, path: '/healthz', agent }); sent.end();
  const [answer] = await once(sent, 'response'); answer.resume(); return [answer.statusCode, answer.socket.localPort]; };
const serials = new Set(); let names = ''; let first;
for (const end = Date.now() + ${seconds * 1000}; Date.now() < end; await new Promise((done) => setTimeout(done, 1000))) {
  const socket = connect(tls); 
  try { await once(socket, 'secureConnect'); } catch { continue; }
  const certificate = socket.getPeerCertificate(); serials.add(certificate.serialNumber); names = certificate.subjectaltname; socket.destroy();
  const used = await call(); first ??= used;
}
const [kept, port] = await call(); agent.destroy();
console.log(JSON.stringify({ serials: [...serials], names, kept: port === first[1] ? kept : 0 }));`;
    const ran = await site.run(`node --input-type=module-typescript -e ${quote(program)}`, '', containerOf('hpcsServer'));
    assert.equal(ran.code, 0, ran.stderr);
    return JSON.parse(ran.stdout) as { serials: string[]; names: string; kept: number };
  };
  const until = async (holds: () => Promise<boolean>): Promise<void> => {
    for (const end = Date.now() + 60_000; !(await holds()); await sleep(300)) assert.ok(Date.now() < end, 'it does not come');
  };

  it('serves 200 clients at once without an error while its token and SVIDs end and are renewed', async () => {
    const before = await metricsOf(site);
    const load = new Load();
    const end = new AbortController();
    const running = load.run(clients, 75_000, end.signal);
    const [certificates] = await Promise.all([ownCertificates(70), sleep(95_000)]);
    end.abort();
    await running;
    // A server beside it, whose certificate is its X.509-SVID: it changed, while a connection stayed.
    assert.ok(certificates.serials.length >= 2, JSON.stringify(certificates));
    assert.equal(certificates.kept, 200);
    assert.equal(certificates.names, 'URI:spiffe://sandbox.hpcs/hpcs-server/workload');
    const { calls, errors } = load.take();
    assert.deepEqual(errors, {});
    assert.ok(load.rounds >= 200, `${load.rounds} rounds`);
    assert.ok((calls['redeem'] ?? 0) >= 200);
    const after = await metricsOf(site);
    const logins = 'hpcs_vault_logins_total{outcome="ok"}';
    assert.ok((after[logins] ?? 0) - (before[logins] ?? 0) >= 2, 'the token did not end');
    const ends = after['hpcs_vault_token_expires_seconds'] ?? 0;
    assert.ok(ends * 1000 - Date.now() < 60_000, 'the token lives longer than a minute');
    const grown = (after['process_resident_memory_bytes'] ?? 0) - (before['process_resident_memory_bytes'] ?? 0);
    assert.ok(grown < 200e6, `${grown} bytes more`);
  });

  it('says 503 with the reason while the vault is sealed, or hangs, or SPIRE does, and goes on by itself afterwards', async () => {
    await using owner = await VaultOwner.open(site);
    const container = (part: Part) => site.docker.getContainer(containerOf(part));
    const outages: [what: string, begin: () => Promise<unknown>, end: () => Promise<unknown>, part: string, state: string][] = [
      ['sealed', () => owner.ask('PUT', 'sys/seal'), () => owner.unseal(), 'vault', 'vault-sealed'],
      ['vault paused', () => container('openbao').pause(), () => container('openbao').unpause(), 'vault', 'no-answer'],
      ['SPIRE paused', () => container('spireServer').pause(), () => container('spireServer').unpause(), 'spire', 'no-answer'],
    ];
    for (const [what, begin, end, part, state] of outages) {
      const some = clients.slice(0, 20);
      const load = new Load();
      const stop = new AbortController();
      const running = load.run(some, 3000, stop.signal);
      try {
        await until(async () => load.rounds > 0);
        await begin();
        await until(async () => (await ready()).parts[part] === state);
        assert.equal((await ready()).status, 503);
        // Alive: nobody shall start it anew.
        assert.equal((await api.json('GET', '/healthz')).status, 200);
        await sleep(2000);
      } finally {
        await end();
      }
      await until(async () => (await ready()).status === 200);
      const refusedFor = Object.keys(load.take().errors);
      for (const reason of refusedFor) assert.ok(/\(503\)|vault: |no answer in time/.test(reason), `${what}: ${reason}`);
      stop.abort();
      await running;
      load.take();
      // Afterwards everything is well again, with nobody's help.
      const again = new Load();
      const enough = new AbortController();
      const once = again.run(some, 60_000 / 20, enough.signal);
      await until(async () => again.rounds >= 20);
      enough.abort();
      await once;
      assert.deepEqual(again.take().errors, {}, what);
    }
  });
});
