import assert from 'node:assert/strict';
import { array, assert as check, constantFrom, property, uniqueArray } from 'fast-check';
import { FileTree, type Attributes, type LayerEntry } from '../../../src/image/tree.ts';

type Entry = LayerEntry<string>;
const attributes: Attributes = { mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: new Map() };
const directory = (path: string, mode = 0o755): Entry => ({ path, node: { type: 'directory', attributes: { ...attributes, mode }, children: new Map() } }); // prettier-ignore
const file = (path: string, content = path): Entry => ({ path, node: { type: 'file', attributes, content } });
const symlink = (path: string, target: string): Entry => ({ path, node: { type: 'symlink', attributes, target } });
const link = (path: string, linkTo: string): Entry => ({ path, linkTo });

function treeOf(...layers: Entry[][]): FileTree<string> {
  const tree = new FileTree<string>();
  for (const layer of layers) tree.apply(layer);
  return tree;
}

/** A tree as lines: directories end in a slash, contents follow names. */
function lines(tree: FileTree<string>): string[] {
  const found: string[] = [];
  tree.prune((path, node) => {
    if (node.type === 'directory') found.push(`${path}/`);
    else found.push(node.type === 'file' ? `${path}=${node.content}` : `${path}>${node.type === 'symlink' ? node.target : ''}`);
    return true;
  });
  return found.toSorted();
}

describe('the layers of an image', () => {
  const lower = [directory('d'), file('d/a'), file('d/b'), directory('d/e'), file('d/e/f'), file('top')];

  it('add, replace and hide', () => {
    assert.deepEqual(lines(treeOf(lower, [file('d/a', 'new'), file('d/.wh.b'), file('d/c')])), ['d/', 'd/a=new', 'd/c=d/c', 'd/e/', 'd/e/f=d/e/f', 'top=top']); // prettier-ignore
    assert.deepEqual(lines(treeOf(lower, [file('.wh.d')])), ['top=top']);
    assert.deepEqual(lines(treeOf(lower, [file('.wh.none'), file('d/.wh.none'), file('none/.wh.x')])), lines(treeOf(lower)));
  });

  it('hide what is below them, not what is their own, whatever the order', () => {
    const opaque = file('d/.wh..wh..opq');
    const own = [directory('d'), file('d/new'), directory('d/e'), file('d/e/own')];
    for (const layer of [
      [opaque, ...own],
      [...own, opaque],
    ])
      assert.deepEqual(lines(treeOf(lower, layer)), ['d/', 'd/e/', 'd/e/own=d/e/own', 'd/new=d/new', 'top=top']);
    for (const layer of [
      [file('d/a', 'new'), file('d/.wh.a')],
      [file('d/.wh.a'), file('d/a', 'new')],
    ])
      // prettier-ignore
      assert.ok(lines(treeOf(lower, layer)).includes('d/a=new'));
  });

  it('put one kind in the place of another', () => {
    assert.deepEqual(lines(treeOf(lower, [file('d', 'file')])), ['d=file', 'top=top']);
    assert.deepEqual(lines(treeOf(lower, [symlink('d', 'top')])), ['d>top', 'top=top']);
    assert.deepEqual(lines(treeOf([file('x')], [directory('x'), file('x/y')])), ['x/', 'x/y=x/y']);
    // A directory that takes the place of a link says that it is opaque. That is not said of where the link led.
    const replaced = treeOf([...lower, symlink('to-d', '/d')], [directory('to-d'), file('to-d/.wh..wh..opq'), file('to-d/x')]);
    assert.deepEqual(lines(replaced), [...lines(treeOf(lower)), 'to-d/', 'to-d/x=to-d/x'].toSorted());
  });

  it('change a directory and leave what is in it', () => {
    const tree = treeOf(lower, [directory('./d/', 0o2700), directory('./', 0o711)]);
    assert.deepEqual(lines(tree), lines(treeOf(lower)));
    assert.equal(tree.find('d')?.attributes.mode, 0o2700);
    assert.equal(tree.root.attributes.mode, 0o711);
  });

  it('keep hard links, and break them where one name is replaced', () => {
    const tree = treeOf([file('a'), link('b', './a'), link('c', '/b')], [file('b', 'new')], [file('.wh.a')]);
    assert.deepEqual(lines(tree), ['b=new', 'c=a']);
    const linked = treeOf([directory('d'), symlink('d/soft', 'x'), link('hard', 'd/soft')]);
    assert.equal(linked.find('hard'), linked.find('d/soft'));
    assert.throws(() => treeOf([link('a', 'none')]), { code: 'image-link', exitCode: 3 });
    assert.throws(() => treeOf([directory('d'), link('a', 'd')]), { code: 'image-link' });
  });

  it('follow links to directories, and never above the root', () => {
    const base = [directory('usr'), directory('usr/bin'), symlink('bin', 'usr/bin'), symlink('abs', '/usr'), symlink('up', '../../usr')]; // prettier-ignore
    const tree = treeOf(base, [file('bin/x'), file('abs/y'), file('up/z'), file('../../w'), file('a/../v')]);
    for (const path of ['usr/bin/x', 'usr/y', 'usr/z', 'w', 'v']) assert.equal(tree.find(path)?.type, 'file', path);
    assert.equal(tree.find('bin')?.type, 'symlink');
    assert.throws(() => treeOf([symlink('a', 'b'), symlink('b', 'a')], [file('a/x')]), { code: 'image-link' });
  });

  it('bring the directories that they leave out', () => {
    assert.deepEqual(lines(treeOf([file('a/b/c')])), ['a/', 'a/b/', 'a/b/c=a/b/c']);
  });

  it('come to the same as the tree from which they were made', () => {
    const name = constantFrom('a', 'b', 'c');
    const path = array(name, { minLength: 1, maxLength: 3 }).map((parts) => parts.join('/'));
    const tree = uniqueArray(path, { maxLength: 8 });
    check(
      property(tree, tree, (before, after) => {
        // Of a path below another one, the other one is a directory.
        const entries = (paths: readonly string[], content: string): Entry[] =>
          paths.toSorted().map((one) => paths.some((other) => other.startsWith(`${one}/`)) ? directory(one) : file(one, content)); // prettier-ignore
        const [old, now] = [treeOf(entries(before, 'old')), treeOf(entries(after, 'new'))];
        const whiteouts: Entry[] = [];
        old.prune((one, node) => {
          const same = now.find(one);
          if (same === undefined) whiteouts.push(file(one.replace(/[^/]+$/, '.wh.$&')));
          return node.type === 'directory' && same?.type === 'directory';
        });
        const changed = treeOf(entries(before, 'old'), [...whiteouts, ...entries(after, 'new')]);
        assert.deepEqual(lines(changed), lines(now));
      }),
    );
  });
});
