import assert from 'node:assert/strict';
import { nearest } from '../../src/nearest.ts';

const commands = ['container-prep', 'data-prep', 'job-prep', 'job list', 'job logs', 'job results'];

describe('nearest word', () => {
  for (const [word, found] of [
    ['jop-prep', 'job-prep'],
    ['dataprep', 'data-prep'],
    ['container-perp', 'container-prep'],
    ['job result', 'job results'],
    ['job lst', 'job list'],
    ['job-prep', 'job-prep'],
    ['frobnicate', undefined],
    ['x', undefined],
    ['', undefined],
  ] as const) {
    it(`to ${JSON.stringify(word)} is ${found}`, () => assert.equal(nearest(word, commands), found));
  }
});
