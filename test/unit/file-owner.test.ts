import assert from 'node:assert/strict';
import type { Stats } from 'node:fs';
import { isContained, isOthers } from '../../src/file-owner.ts';

const own = process.getuid?.() ?? 0;
const found = (mode: number, uid: number): Stats => ({ mode: 0o100000 | mode, uid }) as Stats;

describe('a container', () => {
  const nothing = (): boolean => false;

  it('is known by the file that its engine makes, and in a pod by its environment', () => {
    for (const file of ['/.dockerenv', '/run/.containerenv']) assert.ok(isContained({}, (path) => path === file));
    assert.ok(isContained({ KUBERNETES_SERVICE_HOST: '10.0.0.1' }, nothing));
  });

  it('is no other machine, and no system of several users', () => {
    for (const env of [{}, { KUBERNETES_SERVICE_HOST: '' }, { container: 'lxc' }, { container: 'systemd-nspawn' }])
      assert.equal(isContained(env, nothing), false);
  });
});

describe('what belongs to others', () => {
  it("is what is neither one's own nor root's; in a container root takes what is mounted", () => {
    assert.equal(isOthers(found(0o644, own)), false);
    assert.equal(isOthers(found(0o644, 0)), false);
    assert.equal(isOthers(found(0o600, 4_294_967)), !(own === 0 && isContained()));
  });

  it('is what others, or those who are asked about, may write', () => {
    for (const [mode, byAnybody, byTheWorld] of [
      [0o664, true, false],
      [0o646, true, true],
    ] as const) {
      assert.equal(isOthers(found(mode, own)), byAnybody);
      assert.equal(isOthers(found(mode, own), 0o002), byTheWorld);
    }
  });
});
