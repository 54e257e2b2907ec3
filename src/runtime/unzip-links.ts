/** Symbolic links of a package, followed as the system would follow them. */

/** As on Linux. */
const STEPS_MAX = 40;

/**
 * The first link that leads out of the package or in a circle, `undefined` when none does. Links may lead over other links; a target that
 * does not exist is fine. A lexical check would not do: with `a/b/up -> ../..`, the target `a/b/up/..` is outside.
 */
export function resolveLinks(links: ReadonlyMap<string, string>): { readonly name: string; readonly what: string } | undefined {
  const folded = new Map(Array.from(links, ([name, target]) => [fold(name), target]));
  for (const [name, target] of links) {
    const what = follow(name.split('/').slice(0, -1), target, folded);
    if (what !== undefined) return { name, what };
  }
  return undefined;
}

/** Some disks do not tell `A` from `a`. */
function fold(name: string): string {
  return name.normalize('NFC').toLowerCase();
}

function follow(from: readonly string[], target: string, links: ReadonlyMap<string, string>): string | undefined {
  if (target.startsWith('/')) return 'a link is absolute';
  if (target.includes('\\')) return 'the target of a link has a backslash';
  const here = [...from];
  const ahead = target.split('/').toReversed();
  let steps = 0;
  for (let segment = ahead.pop(); segment !== undefined; segment = ahead.pop()) {
    if (segment === '' || segment === '.') continue;
    if (segment === '..') {
      if (here.pop() === undefined) return 'a link leads out of the package';
      continue;
    }
    here.push(segment);
    const next = links.get(fold(here.join('/')));
    if (next === undefined) continue;
    if (next.startsWith('/')) return 'a link is absolute';
    if (++steps > STEPS_MAX) return 'links lead in a circle';
    here.pop();
    ahead.push(...next.split('/').toReversed());
  }
  return undefined;
}
