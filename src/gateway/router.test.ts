import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { isRunnerError } from '../errors.ts';
import type { Route } from './http.ts';
import { Router } from './router.ts';

const route = (line: string): Route => {
  const [method = '', path = ''] = line.split(' ');
  return {
    method: method as Route['method'],
    path,
    scope: 'public',
    doc: { summary: line, responses: {} },
    handle: () => ({ status: 200 }),
  };
};
const router = new Router(['GET /a', 'POST /a', 'GET /a/{x}', 'GET /a/fixed', 'DELETE /a/{x}/b/{y}', 'GET /a/{x}/tail/'].map(route));
const found = (method: string, path: string): unknown => {
  const { route: one, params } = router.find(method, path);
  return [one.doc.summary, params];
};

describe('paths', () => {
  test('literals are preferred, parameters are decoded, a slash at the end makes no difference', () => {
    expect(found('GET', '/a')).toEqual(['GET /a', {}]);
    expect(found('GET', '/a/')).toEqual(['GET /a', {}]);
    expect(found('HEAD', '/a/fixed')).toEqual(['GET /a/fixed', {}]);
    expect(found('GET', '/a/%24LATEST')).toEqual(['GET /a/{x}', { x: '$LATEST' }]);
    expect(found('GET', '/a/x%20y/tail')).toEqual(['GET /a/{x}/tail/', { x: 'x y' }]);
    expect(found('DELETE', '/a/fixed/b/2')).toEqual(['DELETE /a/{x}/b/{y}', { x: 'fixed', y: '2' }]);
  });

  test('names of objects are not routes', () => {
    for (const path of ['/constructor', '/__proto__', '/a/fixed/toString']) expect(() => router.find('GET', path)).toThrow('nothing');
  });

  test('whatever comes: a route, or a refusal with a code; a parameter never leads elsewhere', () => {
    const piece = fc.oneof(
      fc.constantFrom('a', 'fixed', 'b', 'tail', '..', '.', '%2e%2e', '%2F', '%5c', '%00', '%', '%zz', '', 'é', '%c3%a9', '%ff'),
      fc.string(),
    );
    fc.assert(
      fc.property(fc.constantFrom('GET', 'POST', 'DELETE', 'BREW'), fc.array(piece, { maxLength: 5 }), (method, pieces) => {
        try {
          const { params } = router.find(method, `/${pieces.join('/')}`);
          for (const value of Object.values(params)) {
            expect(value).not.toMatch(/[/\\\p{Cc}]/u);
            expect(['', '.', '..']).not.toContain(value);
          }
        } catch (error) {
          expect(isRunnerError(error) && ['NOT_FOUND', 'REQUEST_INVALID'].includes(error.code)).toBe(true);
        }
      }),
      { numRuns: 2_000 },
    );
  });

  test('the same route twice is a mistake', () => {
    expect(() => new Router([route('GET /a/{x}'), route('GET /a/{y}')])).toThrow('two routes');
  });
});
