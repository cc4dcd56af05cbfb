import assert from 'node:assert/strict';
import SandboxUp from '../../../commands/sandbox/up.ts';
import { wanted } from '../../../src/sandbox/sandbox.ts';

describe('a sandbox that is brought up again', () => {
  const state = { nodes: 2, legacy: true };

  it('stays as it is where nothing else is asked for', () => {
    assert.deepEqual(wanted({}, state), state);
    assert.deepEqual(
      [SandboxUp.flags.nodes.default, SandboxUp.flags['allow-legacy-registration'].default],
      [undefined, undefined],
    );
  });

  it('is what is asked for', () => {
    assert.deepEqual(wanted({ nodes: 0 }, state), { nodes: 0, legacy: true });
    assert.deepEqual(wanted({ legacy: false }, state), { nodes: 2, legacy: false });
  });

  it('is one container without strangers where there was none', () => {
    assert.deepEqual(wanted({}, undefined), { nodes: 0, legacy: false });
  });
});
