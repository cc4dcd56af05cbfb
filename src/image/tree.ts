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
  | { readonly path: string; readonly node: TreeNode<Content> }
  | { readonly path: string; readonly linkTo: string };

const whiteoutPrefix = '.wh.';
const opaqueWhiteout = '.wh..wh..opq';
/** As the kernel has it. */
const mostLinks = 40;
const implied: Attributes = { mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: new Map() };

/** A file system that grows by layers, the lowest first. */
export class FileTree<Content> {
  readonly root: DirectoryNode<Content> = { type: 'directory', attributes: implied, children: new Map() };

  /**
   * Puts a layer on top. What it hides is of the layers below, wherever among its entries it says so.
   *
   * @throws HpcsError `local` for a hard link to nothing, and for symbolic links in a circle
   */
  apply(layer: readonly LayerEntry<Content>[]): void {
    const entries = layer.map((entry) => ({ entry, parts: partsOf(entry.path) }));
    for (const { parts } of entries) this.#hide(parts);
    for (const { entry, parts } of entries) if (!parts.at(-1)?.startsWith(whiteoutPrefix)) this.#add(entry, parts);
  }

  /** What a path leads to, its last part not followed. */
  find(path: string): TreeNode<Content> | undefined {
    const parts = partsOf(path);
    const name = parts.pop();
    return name === undefined ? this.root : this.#directory(parts, false)?.children.get(name);
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

  #hide(parts: readonly string[]): void {
    const name = parts.at(-1);
    if (!name?.startsWith(whiteoutPrefix)) return;
    const directory = this.#directory(parts.slice(0, -1), false);
    if (name === opaqueWhiteout) directory?.children.clear();
    else directory?.children.delete(name.slice(whiteoutPrefix.length));
  }

  #add(entry: LayerEntry<Content>, parts: readonly string[]): void {
    const name = parts.at(-1);
    const node = 'node' in entry ? entry.node : this.find(entry.linkTo);
    if (node === undefined || ('linkTo' in entry && node.type === 'directory')) {
      throw new HpcsError('local', 'image-link', `/${entry.path} of the image is a hard link to what is not there`, {
        suggestion: 'build the image again',
      });
    }
    const existing = name === undefined ? this.root : this.#directory(parts.slice(0, -1), true).children.get(name);
    if (node.type === 'directory' && existing?.type === 'directory') existing.attributes = node.attributes;
    else if (name !== undefined) this.#directory(parts.slice(0, -1), true).children.set(name, node);
  }

  /**
   * The directory at a path, symbolic links followed as far as the root, but never above it.
   *
   * @param make directories that are missing, also in the place of what is none
   */
  #directory(parts: readonly string[], make: true): DirectoryNode<Content>;
  #directory(parts: readonly string[], make: boolean): DirectoryNode<Content> | undefined;
  #directory(parts: readonly string[], make: boolean): DirectoryNode<Content> | undefined {
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
      } else if (!make) return undefined;
      else {
        const made: DirectoryNode<Content> = { type: 'directory', attributes: implied, children: new Map() };
        here.children.set(part, made);
        way.push(made);
      }
    }
    return way.at(-1);
  }
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
