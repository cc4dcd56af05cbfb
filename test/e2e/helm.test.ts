import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseAllDocuments, stringify } from 'yaml';
import { z } from 'zod';
import { parseServerConfig } from '../../src/server/config.ts';

const chart = fileURLToPath(new URL('../../docker/helm/hpcs-server', import.meta.url));
const resource = z.looseObject({ apiVersion: z.string(), kind: z.string(), metadata: z.looseObject({ name: z.string() }) });
type Resource = z.output<typeof resource>;

/** Values that a site has to give, and what it gives beside. */
const least = {
  image: { repository: 'registry.example.org/hpcs/server' },
  spire: { trustDomain: 'example.org' },
  vault: { url: 'https://openbao.openbao.svc:8200' },
  tls: { secretName: 'hpcs-server-tls' },
};
const most = {
  ...least,
  image: { ...least.image, digest: `sha256:${'0'.repeat(64)}` },
  imagePullSecrets: [{ name: 'registry' }],
  spire: { ...least.spire, agentSocket: { hostPath: '/run/spire/agent-sockets' }, serverId: 'spiffe://example.org/other' },
  authorities: { configMap: 'authorities' },
  urls: ['https://hpcs.example.org', 'https://hpcs.internal.example.org:10080'],
  config: {
    'spire-server': { 'jwt-svid-ttl': 120 },
    client: { audience: 'hpcs-server' },
    'issuer idp': { url: 'https://idp.example.org/realms/hpc', kind: 'people', audience: 'hpcs' },
    'issuer lab': { url: 'https://gitlab.example.org:8443', kind: 'gitlab', audience: 'hpcs', projects: 42 },
    'issuer github': { url: 'https://token.actions.githubusercontent.com', kind: 'github', audience: 'hpcs', owners: 9919 },
  },
  drain: 30,
  terminationGracePeriodSeconds: 240,
  serviceMonitor: { enabled: true, labels: { release: 'prometheus' } },
  networkPolicy: {
    from: [{ ipBlock: { cidr: '192.0.2.0/24' } }],
    metricsFrom: [{ namespaceSelector: { matchLabels: { name: 'monitoring' } } }],
    spireTo: [{ namespaceSelector: { matchLabels: { name: 'spire' } } }],
    vaultTo: [{ namespaceSelector: { matchLabels: { name: 'openbao' } } }],
    issuersTo: [{ ipBlock: { cidr: '198.51.100.0/24' } }],
    egress: [{ ports: [{ port: 8080, protocol: 'TCP' }], to: [{ ipBlock: { cidr: '203.0.113.0/24' } }] }],
  },
  podLabels: { team: 'hpc' },
  podAnnotations: { note: 'x' },
  serviceAccount: { name: 'hpcs', annotations: { note: 'x' } },
  service: { type: 'LoadBalancer', annotations: { note: 'x' } },
  nodeSelector: { 'kubernetes.io/arch': 'amd64' },
  tolerations: [{ key: 'x', operator: 'Exists' }],
  affinity: { nodeAffinity: {} },
};

describe('the Helm chart', function () {
  this.timeout(120_000);
  let directory: string;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-chart-'));
  });
  after(() => rm(directory, { recursive: true, force: true }));

  const run = async (program: string, args: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> => {
    const mounts = ['-v', `${chart}:/chart:ro`, '-v', `${directory}:/values:ro`];
    const all = [
      'run',
      '--rm',
      '--log-driver',
      'none',
      '--network',
      'none',
      ...mounts,
      '--entrypoint',
      program,
      'hpcs-test/helm',
      ...args,
    ];
    return new Promise((resolve) => {
      execFile('docker', all, (error, stdout, stderr) =>
        resolve({ code: error === null ? 0 : Number(error.code ?? -1), stdout, stderr }),
      );
    });
  };
  const helm = async (values: object, ...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> => {
    await writeFile(join(directory, 'values.json'), JSON.stringify(values));
    return run('helm', [...args, '/chart', '-f', '/values/values.json']);
  };
  const render = async (values: object): Promise<Resource[]> => {
    const { code, stdout, stderr } = await helm(values, 'template', 'site');
    assert.equal(code, 0, stderr);
    const found = parseAllDocuments(stdout).map((document) => resource.parse(document.toJS()));
    await writeFile(join(directory, 'rendered.yaml'), stdout);
    return found;
  };
  const one = (found: readonly Resource[], kind: string): Resource => {
    const [match, ...more] = found.filter((each) => each.kind === kind);
    assert.ok(match !== undefined && more.length === 0, kind);
    return match;
  };
  const configurationOf = (found: readonly Resource[]): ReturnType<typeof parseServerConfig> => {
    const { data } = z.looseObject({ data: z.object({ 'hpcs-server.conf': z.string() }) }).parse(one(found, 'ConfigMap'));
    return parseServerConfig(data['hpcs-server.conf'], 'hpcs-server.conf');
  };

  for (const [name, values] of Object.entries({ least, most })) {
    it(`is without fault, and what it makes is what Kubernetes takes, with the ${name} values`, async () => {
      const lint = await helm(values, 'lint', '--strict');
      assert.equal(lint.code, 0, lint.stdout + lint.stderr);
      const found = await render(values);
      // The Prometheus operator's resource is none of Kubernetes's own.
      const own = found.filter(({ kind }) => kind !== 'ServiceMonitor').map((each) => stringify(each));
      await writeFile(join(directory, 'own.yaml'), own.join('---\n'));
      const validated = await run('kubernetes-validate', ['--strict', '/values/own.yaml']);
      assert.equal(validated.code, 0, validated.stdout + validated.stderr);
      assert.deepEqual(
        found.map(({ kind }) => kind).toSorted(),
        [
          'ConfigMap',
          'Deployment',
          'NetworkPolicy',
          'PodDisruptionBudget',
          'Service',
          'ServiceAccount',
          ...(name === 'most' ? ['ServiceMonitor'] : []),
        ].toSorted(),
      );
    });
  }

  it('is found out by the same check when it makes what Kubernetes does not take', async () => {
    await writeFile(join(directory, 'own.yaml'), 'apiVersion: v1\nkind: Service\nmetadata: { name: x }\nspec: { portz: [] }\n');
    assert.notEqual((await run('kubernetes-validate', ['--strict', '/values/own.yaml'])).code, 0);
  });

  it('gives the server a configuration that it takes: confined at SPIRE, in its namespace', async () => {
    const config = configurationOf(await render(least));
    assert.equal(config['spire-server']['socket-path'], undefined);
    assert.equal(config.vault.namespace, 'hpcs');
    assert.equal(config.tls?.['key-file'], '/etc/hpcs/tls/tls.key');
    const full = configurationOf(await render(most));
    assert.equal(full['spire-server']['jwt-svid-ttl'], 120);
    assert.deepEqual(full.listen.url, most.urls);
    assert.equal(full['spire-agent']['hpcs-server-spiffeid'], 'spiffe://example.org/other');
    assert.equal(full.vault['ca-file'], '/etc/hpcs/authorities/ca.pem');
  });

  it('runs the server without rights: no root, no capability, nothing to write to, no token of Kubernetes', async () => {
    const deployment = z
      .looseObject({
        spec: z.looseObject({
          replicas: z.number(),
          template: z.looseObject({
            spec: z.looseObject({
              automountServiceAccountToken: z.literal(false),
              securityContext: z.looseObject({ runAsNonRoot: z.literal(true), runAsUser: z.number().min(1) }),
              containers: z.tuple([
                z.looseObject({
                  image: z.string(),
                  securityContext: z.looseObject({
                    allowPrivilegeEscalation: z.literal(false),
                    readOnlyRootFilesystem: z.literal(true),
                    capabilities: z.object({ drop: z.tuple([z.literal('ALL')]) }),
                  }),
                  livenessProbe: z.looseObject({
                    httpGet: z.looseObject({ path: z.literal('/healthz'), scheme: z.literal('HTTPS') }),
                  }),
                  readinessProbe: z.looseObject({
                    httpGet: z.looseObject({ path: z.literal('/readyz'), scheme: z.literal('HTTPS') }),
                  }),
                  volumeMounts: z.array(z.looseObject({ mountPath: z.string(), readOnly: z.boolean().optional() })),
                }),
              ]),
            }),
          }),
        }),
      })
      .parse(one(await render(most), 'Deployment'));
    assert.equal(deployment.spec.replicas, 2);
    const [container] = deployment.spec.template.spec.containers;
    assert.equal(container.image, `registry.example.org/hpcs/server@${most.image.digest}`);
    const writable = container.volumeMounts.filter(({ readOnly }) => readOnly !== true).map(({ mountPath }) => mountPath);
    assert.deepEqual(writable, ['/tmp']);
  });

  it('lets the server call SPIRE, the vault and the issuers of its configuration alone, but for what further rules say', async () => {
    const egress = async (values: object): Promise<[number, unknown][]> => {
      const { spec } = z
        .looseObject({
          spec: z.looseObject({
            policyTypes: z.array(z.string()),
            egress: z.array(
              z.object({ ports: z.array(z.looseObject({ port: z.number() })), to: z.array(z.unknown()).optional() }),
            ),
          }),
        })
        .parse(one(await render(values), 'NetworkPolicy'));
      assert.deepEqual(spec.policyTypes, ['Ingress', 'Egress']);
      return spec.egress.flatMap(({ ports, to }) => ports.map(({ port }): [number, unknown] => [port, to?.[0]]));
    };
    assert.deepEqual(
      (await egress({ ...least, vault: { url: 'https://vault.example.org' } })).map(([port]) => port),
      [53, 53, 8081, 443],
    );
    const { spireTo, vaultTo, issuersTo } = most.networkPolicy;
    assert.deepEqual(await egress(most), [
      [53, undefined],
      [53, undefined],
      [8081, spireTo[0]],
      [8200, vaultTo[0]],
      [443, issuersTo[0]],
      [8443, issuersTo[0]],
      [8080, { ipBlock: { cidr: '203.0.113.0/24' } }],
    ]);
  });

  it('gives the server the time that its end takes, after it is out of its service', async () => {
    for (const [values, drain] of [
      [least, 10],
      [most, 30],
    ] as const) {
      const found = await render(values);
      const template = z.looseObject({ spec: z.looseObject({ terminationGracePeriodSeconds: z.int() }) });
      const { spec } = z.looseObject({ spec: z.looseObject({ template }) }).parse(one(found, 'Deployment'));
      assert.equal(configurationOf(found).listen.drain, drain);
      assert.ok(spec.template.spec.terminationGracePeriodSeconds >= drain + 200);
    }
  });

  for (const [name, values] of Object.entries({
    'terminationGracePeriodSeconds is lowered': { ...least, terminationGracePeriodSeconds: 30 },
    'drain is raised': { ...least, drain: 30 },
    'drain is raised in config': { ...least, config: { listen: { drain: 30 } } },
  })) {
    it(`says that the server's end gets too little time when ${name}`, async () => {
      const { code, stderr } = await helm(values, 'template', 'site');
      assert.notEqual(code, 0);
      assert.ok(stderr.includes('terminationGracePeriodSeconds'), stderr);
    });
  }

  for (const [key, values] of Object.entries({
    'image.repository': { ...least, image: {} },
    'spire.trustDomain': { ...least, spire: {} },
    'vault.url': { ...least, vault: {} },
    'tls.secretName': { ...least, tls: {} },
  })) {
    it(`says that ${key} is missing`, async () => {
      const { code, stderr } = await helm(values, 'template', 'site');
      assert.notEqual(code, 0);
      assert.ok(stderr.includes(key), stderr);
    });
  }
});
