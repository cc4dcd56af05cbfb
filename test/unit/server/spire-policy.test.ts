import assert from 'node:assert/strict';
import { parseServerConfig } from '../../../src/server/config.ts';
import { spirePolicy } from '../../../src/server/spire-policy.ts';

const base = '[spire-server]\naddress=x\nport=1\ntrust-domain=example.org\n[vault]\nurl=https://v\nserver-role=r\n';
const end = '[tls]\ncert-file=/c\nkey-file=/k\n';

describe("SPIRE's policy", () => {
  const hpcsOf = async (text: string, agentMode = true): Promise<unknown> => {
    const { data } = await spirePolicy(parseServerConfig(text, 'x.conf'), { agentMode });
    return (JSON.parse(data) as { hpcs: unknown }).hpcs;
  };

  it('knows the server, its trust domain and its audiences', async () => {
    assert.deepEqual(await hpcsOf(`${base}audience=vault,TESTING\n[client]\naudience=hpcs,TESTING\n${end}`), {
      servers: ['spiffe://example.org/hpcs-server/workload'],
      trust_domain: 'example.org',
      audiences: ['hpcs', 'TESTING', 'vault'],
      longest_ttl: 3600,
      agent_mode: true,
    });
  });

  it('allows as long a life as the configuration wants, and leaves agent mode out where that is not wanted', async () => {
    const long = base.replace('port=1\n', 'port=1\njwt-svid-ttl=7200\n');
    const found = (await hpcsOf(long + end, false)) as { longest_ttl: number; agent_mode: boolean };
    assert.deepEqual([found.longest_ttl, found.agent_mode], [7200, false]);
  });
});
