/** From method and path to a route. */

import { RunnerError } from '../errors.ts';
import { badRequest } from './http.ts';
import type { Route } from './http.ts';

export interface Match {
  readonly route: Route;
  readonly params: Readonly<Record<string, string>>;
}

interface Level {
  readonly literal: Map<string, Level>;
  parameter: Level | undefined;
  readonly routes: Map<string, { readonly route: Route; readonly names: readonly string[] }>;
}

const TARGET_CHARS_MAX = 8_192;
/** Paths that are remembered with what they lead to, and how long they may be. */
const KNOWN_MAX = 1_000;
const KNOWN_CHARS_MAX = 256;
const PARAMETER = /^\{(\w+)\}$/;
/** What no name here holds: slashes of both kinds and control characters. */
const UNSAFE = /[/\\\u0000-\u001f\u007f]/;

/** A literal part of a path is preferred to a parameter. */
export class Router {
  readonly #root: Level = level();
  /** By method and path. Most requests name one of a few functions. */
  readonly #known = new Map<string, Map<string, Match>>();

  /** Throws `INTERNAL` when two routes are the same. */
  constructor(routes: Iterable<Route>) {
    for (const route of routes) this.#add(route);
  }

  /** Throws `REQUEST_INVALID` for a path that is malformed or tricky, or a method that the path does not take; `NOT_FOUND`. */
  find(method: string, path: string): Match {
    const known = this.#known.get(method)?.get(path);
    if (known) return known;
    const match = this.#find(method, path);
    if (path.length <= KNOWN_CHARS_MAX) this.#remember(method, path, match);
    return match;
  }

  #remember(method: string, path: string, match: Match): void {
    let known = this.#known.get(method);
    if (!known) this.#known.set(method, (known = new Map<string, Match>()));
    if (known.size >= KNOWN_MAX) known.clear();
    // A copy: the path may be a part of a longer text, which would be kept with it.
    known.set(Buffer.from(path, 'utf8').toString('utf8'), match);
  }

  #find(method: string, path: string): Match {
    const parts = partsOf(path);
    const found = this.#walk(this.#root, parts, []);
    if (!found) throw new RunnerError('NOT_FOUND', `there is nothing at ${shown(path)}; /openapi.json lists what is there`);
    const { routes } = found.level;
    const entry = routes.get(method === 'HEAD' ? 'GET' : method);
    if (!entry) {
      const allow = [...routes.keys()].join(', ');
      throw new RunnerError('REQUEST_INVALID', `${shown(path)} does not take ${method.slice(0, 16)}; it takes ${allow}`, {
        details: { status: 405, allow },
      });
    }
    const params = Object.fromEntries(entry.names.map((name, index) => [name, found.values[index] ?? '']));
    return { route: entry.route, params };
  }

  #add(route: Route): void {
    let at = this.#root;
    const names: string[] = [];
    for (const part of route.path.split('/').filter((one) => one !== '')) {
      const name = PARAMETER.exec(part)?.[1];
      if (name === undefined) {
        const next = at.literal.get(part) ?? level();
        at.literal.set(part, next);
        at = next;
      } else {
        names.push(name);
        at = at.parameter ??= level();
      }
    }
    if (at.routes.has(route.method)) throw new RunnerError('INTERNAL', `two routes answer ${route.method} ${route.path}`);
    at.routes.set(route.method, { route, names });
  }

  #walk(at: Level, parts: readonly string[], values: readonly string[]): { level: Level; values: readonly string[] } | undefined {
    const [part, ...rest] = parts;
    if (part === undefined) return at.routes.size > 0 ? { level: at, values } : undefined;
    const next = at.literal.get(part);
    const straight = next && this.#walk(next, rest, values);
    return straight ?? (at.parameter && this.#walk(at.parameter, rest, [...values, part]));
  }
}

function level(): Level {
  return { literal: new Map(), parameter: undefined, routes: new Map() };
}

function partsOf(path: string): string[] {
  if (path.length > TARGET_CHARS_MAX) throw badRequest(`the path has ${path.length} characters; the most is ${TARGET_CHARS_MAX}`, 414);
  if (!path.startsWith('/')) throw badRequest('the target of a request is a path that starts with a slash');
  const parts = path.slice(1).split('/');
  if (parts.at(-1) === '') parts.pop();
  return parts.map((part) => {
    const decoded = decode(part);
    if (decoded === undefined || UNSAFE.test(decoded))
      throw badRequest('the path has a part that is not percent-encoded text, or holds a slash or a control character');
    if (decoded === '' || decoded === '.' || decoded === '..') throw badRequest('the path has an empty part, or one of dots');
    return decoded;
  });
}

function decode(part: string): string | undefined {
  try {
    return decodeURIComponent(part);
  } catch {
    return undefined;
  }
}

function shown(path: string): string {
  return path.length > 200 ? `${path.slice(0, 200)}...` : path;
}
