/** Operations on versions and aliases. */

import { RunnerError } from '../../errors.ts';
import type { AliasRecord, JsonObject } from '../../runtime/store-records.ts';
import { toConfiguration, toHex } from './configuration.ts';
import type { Fields } from './fields.ts';
import { functionArn } from './names.ts';
import type { Place } from './names.ts';
import { NO_CONTENT, answer, nextMarker, pageOf } from './operation.ts';
import type { Handlers, LambdaParts } from './operation.ts';

const PAGE_MAX = 50;

export function versionHandlers({ store, place }: LambdaParts) {
  return {
    PublishVersion({ fn, fields: read, caller }) {
      const fields = read();
      const [description, sha256, revisionId] = ['Description', 'CodeSha256', 'RevisionId'].map((name) => fields.text(name));
      const record = store.publish(fn.name, {
        ...(description !== undefined && { description }),
        ...(sha256 !== undefined && { codeSha256: toHex(sha256) ?? sha256 }),
        ...(revisionId !== undefined && { revisionId }),
      });
      return answer(201, toConfiguration(record, place, { qualified: true, caller }));
    },
    ListVersionsByFunction({ fn, query, caller }) {
      const page = store.versions(fn.name, pageOf(query, PAGE_MAX));
      const versions = page.items.map((record) => toConfiguration(record, place, { qualified: true, caller }));
      return answer(200, { Versions: versions, ...nextMarker(page) });
    },
  } satisfies Partial<Handlers>;
}

export function aliasHandlers({ store, place }: LambdaParts) {
  const show = (alias: AliasRecord): JsonObject => toAlias(alias, place);
  return {
    CreateAlias({ fn, fields: read }) {
      const fields = read();
      const settings = { version: fields.required('FunctionVersion'), ...aliasSettings(fields) };
      return answer(201, show(store.aliases.create(fn.name, fields.required('Name'), settings)));
    },
    GetAlias: ({ fn, params }) => answer(200, show(store.aliases.get(fn.name, params['Name'] ?? ''))),
    UpdateAlias({ fn, params, fields: read }) {
      const fields = read();
      const version = fields.text('FunctionVersion');
      const revisionId = fields.text('RevisionId');
      const patch = {
        ...(version !== undefined && { version }),
        ...(revisionId !== undefined && { revisionId }),
        ...aliasSettings(fields),
      };
      return answer(200, show(store.aliases.update(fn.name, params['Name'] ?? '', patch)));
    },
    DeleteAlias({ fn, params }) {
      store.aliases.remove(fn.name, params['Name'] ?? '');
      return NO_CONTENT;
    },
    ListAliases({ fn, query }) {
      store.get(fn.name);
      const version = query.get('FunctionVersion');
      const page = store.aliases.list(fn.name, { ...pageOf(query, PAGE_MAX), ...(version !== null && { version }) });
      return answer(200, { Aliases: page.items.map(show), ...nextMarker(page) });
    },
  } satisfies Partial<Handlers>;
}

function aliasSettings(fields: Fields): { readonly description?: string; readonly weights?: Readonly<Record<string, number>> } {
  const description = fields.text('Description');
  const weights = fields.has('RoutingConfig') ? (fields.inner('RoutingConfig')?.numberMap('AdditionalVersionWeights') ?? {}) : undefined;
  return { ...(description !== undefined && { description }), ...(weights && { weights }) };
}

function toAlias({ functionName, name, version, description, weights, revisionId }: AliasRecord, place: Place): JsonObject {
  return {
    AliasArn: functionArn(place, functionName, name),
    Name: name,
    FunctionVersion: version,
    Description: description,
    ...(Object.keys(weights).length > 0 && { RoutingConfig: { AdditionalVersionWeights: weights } }),
    RevisionId: revisionId,
  };
}

/** For operations that a qualifier makes sense for only when it is a version or an alias. */
export function requireQualifier(qualifier: string | undefined): string {
  if (qualifier !== undefined && qualifier !== '$LATEST') return qualifier;
  throw new RunnerError('REQUEST_INVALID', 'Provisioned Concurrency Configs cannot be applied to unpublished function versions.', {
    details: { awsType: 'InvalidParameterValueException' },
  });
}
