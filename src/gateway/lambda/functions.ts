/** Operations on functions: create, read, change, delete. */

import type { FunctionRecord, JsonObject } from '../../runtime/store-records.ts';
import type { FunctionStore } from '../../runtime/store.ts';
import { isCodeOfRequest } from '../functions.ts';
import { allows, demand } from '../http.ts';
import type { Caller } from '../http.ts';
import type { CodeLinks } from './code-links.ts';
import { architectureOf, codeOf, profileOf, requireCreatable, settingsOf, startOf, tagSettings, toConfiguration } from './configuration.ts';
import type { Showing } from './configuration.ts';
import { demandTold } from './destinations.ts';
import type { Fields } from './fields.ts';
import { functionArn, parseFunctionName } from './names.ts';
import { NO_CONTENT, answer, nextMarker, pageOf } from './operation.ts';
import type { Handlers, LambdaParts } from './operation.ts';

const LATEST = '$LATEST';
const PAGE_MAX = 50;

export function functionHandlers({ store, place }: LambdaParts, links: CodeLinks) {
  const show = (record: FunctionRecord, showing: Showing): JsonObject => toConfiguration(record, place, showing);
  return {
    async CreateFunction({ fields: read, caller }) {
      const fields = read();
      const { name } = parseFunctionName(fields.required('FunctionName'));
      demand(caller, 'functions:write', name);
      demandDeadLetters(fields, caller);
      const packaged = requireCreatable(fields);
      const tags = fields.textMap('Tags') ?? {};
      await store.create({
        name,
        ...profileOf(tags),
        ...settingsOf(fields),
        ...tagSettings(tags),
        ...(fields.has('Architectures') && { architecture: architectureOf(fields) }),
        code: codeOf(fields.inner('Code') ?? fields, packaged, startOf(fields.inner('ImageConfig'))),
        tags,
      });
      const record = fields.flag('Publish') ? store.publish(name) : store.get(name);
      return answer(201, show(record, { qualified: record.version !== LATEST, caller }));
    },
    GetFunction({ fn, origin, caller }) {
      const record = store.get(fn.name, fn.qualifier);
      const reserved = store.reserved(fn.name);
      const tags = store.tags(fn.name);
      const link = allows(caller, 'functions:write', fn.name) ? links.ofFunction(origin, record) : undefined;
      return answer(200, {
        Configuration: show(record, { qualified: fn.qualifier !== undefined, caller }),
        Code: locationOf(record, link),
        ...(Object.keys(tags).length > 0 && { Tags: tags }),
        ...(reserved !== undefined && { Concurrency: { ReservedConcurrentExecutions: reserved } }),
      });
    },
    GetFunctionConfiguration: ({ fn, caller }) =>
      answer(200, show(store.get(fn.name, fn.qualifier), { qualified: fn.qualifier !== undefined, caller })),
    ListFunctions({ query, caller }) {
      const page = store.list(pageOf(query, PAGE_MAX));
      const all = query.get('FunctionVersion') === 'ALL';
      const seen = page.items.filter((record) => !isCodeOfRequest(record) && allows(caller, 'functions:read', record.name));
      const records = all ? seen.flatMap(({ name }) => store.versions(name).items) : seen;
      return answer(200, { Functions: records.map((record) => show(record, { qualified: all, caller })), ...nextMarker(page) });
    },
    async UpdateFunctionCode({ fn, fields: read, caller }) {
      const fields = read();
      const { code: before } = store.get(fn.name);
      const revisionId = fields.text('RevisionId');
      // Another image is started as the one before it: only the configuration changes that.
      const code = before.kind === 'zip' ? codeOf(fields, 'Zip', {}) : codeOf(fields, 'Image', before);
      const record = await store.updateCode(fn.name, code, {
        publish: fields.flag('Publish'),
        dryRun: fields.flag('DryRun'),
        ...(revisionId !== undefined && { revisionId }),
        ...(fields.has('Architectures') && { architecture: architectureOf(fields) }),
      });
      return answer(200, show(record, { qualified: record.version !== LATEST, caller }));
    },
    async UpdateFunctionConfiguration({ fn, fields: read, caller }) {
      const fields = read();
      demandDeadLetters(fields, caller);
      return answer(200, show(await changeConfiguration(store, fn.name, fields), { qualified: false, caller }));
    },
    DeleteFunction({ fn }) {
      store.remove(fn.name, fn.qualifier);
      return NO_CONTENT;
    },
  } satisfies Partial<Handlers>;
}

function changeConfiguration(store: FunctionStore, name: string, fields: Fields): Promise<FunctionRecord> {
  const { code, extra: before } = store.get(name);
  const { extra = {}, layers = [], ...rest } = settingsOf(fields);
  const settings = { ...rest, extra: { ...before, ...extra } };
  const revisionId = fields.text('RevisionId');
  const options = { ...(revisionId !== undefined && { revisionId }) };
  // How an image is started is a part of its code.
  if (code.kind === 'image' && fields.has('ImageConfig') && layers.length === 0)
    return store.updateCode(name, { kind: 'image', uri: code.uri, ...startOf(fields.inner('ImageConfig')) }, { ...options, settings });
  return store.updateSettings(name, { ...settings, ...(fields.has('Layers') && { layers }) }, options);
}

/** `link`: absent for who may not have the package. */
function locationOf({ code }: FunctionRecord, link: string | undefined): JsonObject {
  if (code.kind === 'image') return { RepositoryType: 'ECR', ImageUri: code.uri, ResolvedImageUri: code.uri };
  return { RepositoryType: 'S3', ...(link !== undefined && { Location: link }) };
}

function demandDeadLetters(fields: Fields, caller: Caller): void {
  const target = fields.inner('DeadLetterConfig')?.text('TargetArn') ?? '';
  if (target !== '') demandTold(caller, target);
}

/** What provisioning tools ask of every function, and what is always the same here. */
export function standingHandlers({ store, place }: LambdaParts) {
  return {
    GetFunctionCodeSigningConfig: ({ fn }) => answer(200, { CodeSigningConfigArn: '', FunctionName: store.get(fn.name).name }),
    GetRuntimeManagementConfig({ fn }) {
      const { name, version } = store.get(fn.name, fn.qualifier);
      return answer(200, { UpdateRuntimeOn: 'Auto', FunctionArn: functionArn(place, name, version) });
    },
    GetFunctionRecursionConfig({ fn }) {
      store.get(fn.name);
      return answer(200, { RecursiveLoop: 'Terminate' });
    },
    ListEventSourceMappings: () => answer(200, { EventSourceMappings: [] }),
  } satisfies Partial<Handlers>;
}
