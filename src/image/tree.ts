/**
 * The file system of an image, made of its layers: each one adds to what lies below it, replaces it, or hides it.
 *
 * @see OCI image-spec, layer.md, "Applying Changesets" and "Whiteouts"
 */
import { HpcsError } from '../errors.ts';

/** What every object of a file system has. */
export interface Attributes {
  /** Permission bits, with those of set-id and sticky. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds since 1970. */
  readonly mtime: number;
  /** Extended attributes by their full names, such as `security.capability`. */
  readonly xattrs: ReadonlyMap<string, Uint8Array>;
}

/** A regular file, its content kept elsewhere. */
export interface FileNode<Content> {
  readonly type: 'file';
  readonly attributes: Attributes;
  readonly content: Content;
}

/** What has neither content nor entries. */
export interface SpecialNode {
  readonly type: 'fifo' | 'character' | 'block';
  readonly attributes: Attributes;
}

export interface SymlinkNode {
  readonly type: 'symlink';
  readonly attributes: Attributes;
  readonly target: string;
}

export interface DirectoryNode<Content> {
  readonly type: 'directory';
  attributes: Attributes;
  readonly children: Map<string, TreeNode<Content>>;
}

/** An object of a file system. Two names of one file are the same object. Names are as `nameOf` has them. */
export type TreeNode<Content> = FileNode<Content> | SpecialNode | SymlinkNode | DirectoryNode<Content>;

/** One entry of a layer. */
export type LayerEntry<Content> =
  { readonly path: string; readonly node: TreeNode<Content> } | { readonly path: string; readonly linkTo: string };

const whiteoutPrefix = '.wh.';
const opaqueWhiteout = '.wh..wh..opq';
/** As the kernel has it. */
const mostLinks = 40;
const implied: Attributes = { mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: new Map() };

/** A file system that grows by layers, the lowest first. */
export class FileTree<Content> {
  readonly root: DirectoryNode<Content> = { type: 'directory', attributes: implied, children: new Map() };

  /**
   * Puts a layer on top. What an entry hides is of the layers below: names of its own layer stay, whatever their order.
   *
   * @throws HpcsError `local` for a hard link to nothing, and for symbolic links in a circle
   */
  apply(layer: readonly LayerEntry<Content>[]): void {
    const own = new Set<TreeNode<Content>>();
    for (const entry of layer) {
      const parts = partsOf(entry.path);
      const name = parts.pop();
      if (name?.startsWith(whiteoutPrefix)) this.#hide(parts, name, own);
      else this.#add(entry, parts, name, own);
    }
  }

  /** What a path leads to, its last part not followed. */
  find(path: string): TreeNode<Content> | undefined {
    const parts = partsOf(path);
    const name = parts.pop();
    return name === undefined ? this.root : this.#directory(parts)?.children.get(name);
  }

  /**
   * Every name but the root's, parents first.
   *
   * @param keep whether a name stays; what lies below one that does not is not asked about
   */
  prune(keep: (path: string, node: TreeNode<Content>) => boolean): void {
    const visit = (directory: DirectoryNode<Content>, prefix: string): void => {
      for (const [name, node] of directory.children) {
        if (!keep(prefix + name, node)) directory.children.delete(name);
        else if (node.type === 'directory') visit(node, `${prefix}${name}/`);
      }
    };
    visit(this.root, '');
  }

  #hide(parts: readonly string[], whiteout: string, own: ReadonlySet<TreeNode<Content>>): void {
    const children = this.#directory(parts)?.children;
    const hidden = whiteout === opaqueWhiteout ? [...(children?.keys() ?? [])] : [whiteout.slice(whiteoutPrefix.length)];
    for (const name of hidden) {
      const node = children?.get(name);
      if (node !== undefined && !keepOwn(node, own)) children?.delete(name);
    }
  }

  #add(entry: LayerEntry<Content>, parts: readonly string[], name: string | undefined, own: Set<TreeNode<Content>>): void {
    const node = 'node' in entry ? entry.node : this.find(entry.linkTo);
    if (node === undefined || ('linkTo' in entry && node.type === 'directory')) {
      throw new HpcsError('local', 'image-link', `/${entry.path} of the image is a hard link to what is not there`, {
        suggestion: 'build the image again',
      });
    }
    const parent = this.#directory(parts, own);
    const existing = name === undefined ? this.root : parent.children.get(name);
    if (node.type === 'directory' && existing?.type === 'directory') {
      existing.attributes = node.attributes;
      own.add(existing);
    } else if (name !== undefined) {
      parent.children.set(name, node);
      own.add(node);
    }
  }

  /**
   * The directory at a path, symbolic links followed as far as the root, but never above it.
   *
   * @param made where missing directories are to be made, also in the place of what is none: takes those
   */
  #directory(parts: readonly string[], made: Set<TreeNode<Content>>): DirectoryNode<Content>;
  #directory(parts: readonly string[]): DirectoryNode<Content> | undefined;
  #directory(parts: readonly string[], made?: Set<TreeNode<Content>>): DirectoryNode<Content> | undefined {
    let way = [this.root];
    let left = [...parts];
    let links = 0;
    for (let part = left.shift(); part !== undefined; part = left.shift()) {
      const here = way.at(-1) ?? this.root;
      const next = here.children.get(part);
      if (part === '..') way = way.length > 1 ? way.slice(0, -1) : way;
      else if (next?.type === 'directory') way.push(next);
      else if (next?.type === 'symlink') {
        if (++links > mostLinks) throw circular(parts);
        if (next.target.startsWith('/')) way = [this.root];
        left = [...next.target.split('/').filter((step) => step !== '' && step !== '.'), ...left];
      } else if (made === undefined) return undefined;
      else {
        const directory: DirectoryNode<Content> = { type: 'directory', attributes: implied, children: new Map() };
        here.children.set(part, directory);
        made.add(directory);
        way.push(directory);
      }
    }
    return way.at(-1);
  }
}

/** Removes what is not of a layer's own from what lies below a name. @returns whether anything stays of that */
function keepOwn<Content>(node: TreeNode<Content>, own: ReadonlySet<TreeNode<Content>>): boolean {
  if (node.type !== 'directory') return own.has(node);
  for (const [name, child] of node.children) if (!keepOwn(child, own)) node.children.delete(name);
  return own.has(node) || node.children.size > 0;
}

function circular(parts: readonly string[]): HpcsError {
  return new HpcsError('local', 'image-link', `/${parts.join('/')} of the image leads through symbolic links in a circle`, {
    suggestion: 'build the image again',
  });
}

/** The parts of a path in an archive: relative to the root whatever it begins with, and never above it. */
function partsOf(path: string): string[] {
  const parts: string[] = [];
  for (const part of path.split('/')) {
    if (part === '..') parts.pop();
    else if (part !== '' && part !== '.') parts.push(part);
  }
  return parts;
}
