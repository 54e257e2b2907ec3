/**
 * What plugins have added, one registry per runner.
 *
 * Factories live in a tsyringe child container under one symbol token per kind and name. Plugins are asked when a runner is
 * built; nothing asks the container per call.
 */

import 'reflect-metadata';
import { container } from 'tsyringe';
import type { DependencyContainer } from 'tsyringe';
import { RunnerError } from '../errors.ts';
import type { FaasDeployer } from '../executor/deployer.ts';
import type { FaasExecutor } from '../executor/executor.ts';
import type { MachineHost } from '../executor/machine.ts';
import type { WorkQueue } from '../queue/queue.ts';
import type { InstanceBackend } from '../runtime/runtime.ts';
import { BUILT_IN_PLUGINS } from './catalog.ts';
import { installedVersion } from './peer.ts';
import type { BackendFactory, DeployerFactory, ExecutorFactory, HostFactory, Peer, Plugin, PluginContext, QueueFactory } from './plugin.ts';

interface Kinds {
  readonly executor: ExecutorFactory;
  readonly deployer: DeployerFactory;
  readonly backend: BackendFactory;
  readonly host: HostFactory;
  readonly queue: QueueFactory;
}

type Kind = keyof Kinds;

/** The type of the factory travels with the token. */
type Token<K extends Kind> = symbol & { readonly factory?: Kinds[K] };

function tokenOf<K extends Kind>(kind: K, name: string): Token<K> {
  return Symbol.for(`blueprint-runner.${kind}.${name}`);
}

export interface PluginDescription {
  readonly name: string;
  readonly source: 'built-in' | 'added';
  /** What it adds; empty when it cannot be loaded. */
  readonly kinds: readonly Kind[];
  readonly peers: readonly (Peer & { readonly installed: string | undefined })[];
  /** Why the plugin itself cannot be loaded. */
  readonly problem: string | undefined;
}

export interface PluginRegistry {
  /** Adds a plugin. Throws `PLUGIN_CONFLICT` for a name that is taken and `CONFIG_INVALID` for a malformed plugin. */
  use(plugin: Plugin): void;
  /** Makes an executor. Rejects with `PLUGIN_UNKNOWN`, or with what the factory says about the options. */
  executor(name: string, options: unknown): Promise<FaasExecutor>;
  /** Makes a deployer. Rejects with `PLUGIN_UNKNOWN`, or with what the factory says about the options. */
  deployer(name: string, options: unknown): Promise<FaasDeployer>;
  /** Makes a backend. Rejects with `PLUGIN_UNKNOWN`, or with what the factory says about the options. */
  backend(name: string, options: unknown): Promise<InstanceBackend>;
  /** Makes a host of programs. Rejects with `PLUGIN_UNKNOWN`, or with what the factory says about the options. */
  host(name: string, options: unknown): Promise<MachineHost>;
  /** Makes a work queue. Rejects with `PLUGIN_UNKNOWN`, or with what the factory says about the options. */
  queue(name: string, options: unknown): Promise<WorkQueue>;
  /** Whether the plugin makes these. Loads it. */
  has(kind: 'executor' | 'deployer' | 'backend' | 'host' | 'queue', name: string): Promise<boolean>;
  /** Names of all plugins, loaded or not, sorted. */
  names(): string[];
  /** Every plugin with the state of its peers. Loads the built-in plugins, but none of their peers. */
  describe(): Promise<PluginDescription[]>;
}

export interface PluginRegistryOptions extends PluginContext {
  /** Plugins that are imported when they are first asked for. Default: those of the package. */
  readonly builtIn?: ReadonlyMap<string, () => Promise<Plugin>>;
}

/**
 * @example
 * const plugins = createPluginRegistry({ clock: systemClock, telemetry });
 * plugins.use(myPlugin);
 * const executor = await plugins.executor('http', { url: 'http://127.0.0.1:8080' });
 */
export function createPluginRegistry(options: PluginRegistryOptions): PluginRegistry {
  return new ContainerRegistry(options);
}

interface Loaded {
  readonly plugin: Plugin;
  readonly kinds: readonly Kind[];
}

class ContainerRegistry implements PluginRegistry {
  readonly #container: DependencyContainer = container.createChildContainer();
  readonly #context: PluginContext;
  readonly #builtIn: ReadonlyMap<string, () => Promise<Plugin>>;
  readonly #loaded = new Map<string, Loaded>();
  readonly #loading = new Map<string, Promise<void>>();

  constructor(options: PluginRegistryOptions) {
    this.#context = { clock: options.clock, telemetry: options.telemetry };
    this.#builtIn = options.builtIn ?? BUILT_IN_PLUGINS;
  }

  use(plugin: Plugin): void {
    checkPlugin(plugin);
    if (this.#loaded.has(plugin.name) || this.#builtIn.has(plugin.name)) {
      const whose = this.#builtIn.has(plugin.name) ? 'a built-in plugin' : 'a plugin that was added before';
      throw new RunnerError('PLUGIN_CONFLICT', `the plugin name ${plugin.name} belongs to ${whose}`, { details: { name: plugin.name } });
    }
    this.#register(plugin);
  }

  async executor(name: string, options: unknown): Promise<FaasExecutor> {
    return (await this.#factory('executor', name))(options, this.#context);
  }

  async deployer(name: string, options: unknown): Promise<FaasDeployer> {
    return (await this.#factory('deployer', name))(options, this.#context);
  }

  async backend(name: string, options: unknown): Promise<InstanceBackend> {
    return (await this.#factory('backend', name))(options, this.#context);
  }

  async host(name: string, options: unknown): Promise<MachineHost> {
    return (await this.#factory('host', name))(options, this.#context);
  }

  async queue(name: string, options: unknown): Promise<WorkQueue> {
    return (await this.#factory('queue', name))(options, this.#context);
  }

  async has(kind: Kind, name: string): Promise<boolean> {
    await this.#load(name);
    return this.#container.isRegistered(tokenOf(kind, name));
  }

  names(): string[] {
    return [...new Set([...this.#builtIn.keys(), ...this.#loaded.keys()])].toSorted();
  }

  async describe(): Promise<PluginDescription[]> {
    return Promise.all(
      this.names().map(async (name) => {
        const problem = await this.#load(name).then(
          () => undefined,
          (error: unknown) => (error instanceof Error ? error.message : String(error)),
        );
        const { plugin, kinds } = this.#loaded.get(name) ?? { plugin: undefined, kinds: [] };
        const peers = (plugin?.peers ?? []).map((peer) => ({ ...peer, installed: installedVersion(peer.name) }));
        return { name, source: this.#builtIn.has(name) ? 'built-in' : 'added', kinds, peers, problem } as const;
      }),
    );
  }

  async #factory<K extends Kind>(kind: K, name: string): Promise<Kinds[K]> {
    await this.#load(name);
    const token = tokenOf(kind, name);
    if (!this.#container.isRegistered(token)) {
      const others = this.names().join(', ');
      const message = this.#loaded.has(name) ? `plugin ${name} has no ${kind}` : `there is no plugin ${name}; known are: ${others}`;
      throw new RunnerError('PLUGIN_UNKNOWN', message, { details: { name, kind, known: this.names() } });
    }
    return this.#container.resolve<Kinds[K]>(token);
  }

  /** Imports a built-in plugin once, however many ask for it at the same time. A failed import is tried again. */
  async #load(name: string): Promise<void> {
    const load = this.#builtIn.get(name);
    if (!load || this.#loaded.has(name)) return;
    let loading = this.#loading.get(name);
    if (!loading) {
      loading = load()
        .then((plugin) => this.#register(checkPlugin(plugin)))
        .finally(() => this.#loading.delete(name));
      this.#loading.set(name, loading);
    }
    await loading;
  }

  #register(plugin: Plugin): void {
    const factories = new Map<Kind, Kinds[Kind]>();
    const add = (kind: Kind, factory: Kinds[Kind]): void => {
      if (factories.has(kind)) throw new RunnerError('PLUGIN_CONFLICT', `plugin ${plugin.name} registers two factories of kind ${kind}`);
      if (typeof factory !== 'function')
        throw new RunnerError('CONFIG_INVALID', `plugin ${plugin.name} registers a ${kind} that is not a function`);
      factories.set(kind, factory);
    };
    plugin.register({
      executor: (factory) => add('executor', factory),
      deployer: (factory) => add('deployer', factory),
      backend: (factory) => add('backend', factory),
      host: (factory) => add('host', factory),
      queue: (factory) => add('queue', factory),
    });
    if (factories.size === 0) throw new RunnerError('CONFIG_INVALID', `plugin ${plugin.name} registers nothing`);
    for (const [kind, factory] of factories) this.#container.register(tokenOf(kind, plugin.name), { useValue: factory });
    this.#loaded.set(plugin.name, { plugin, kinds: [...factories.keys()] });
  }
}

const PLUGIN_NAME = /^[a-z][a-z0-9-]*$/;

/** Plugins come from other packages: what the type promises is checked. */
function checkPlugin(plugin: Plugin): Plugin {
  const invalid = (what: string): RunnerError =>
    new RunnerError('CONFIG_INVALID', `a plugin is malformed: ${what}`, { details: { plugin: String(plugin?.name) } });
  if (typeof plugin !== 'object' || plugin === null) throw invalid('it is not an object');
  if (typeof plugin.name !== 'string' || !PLUGIN_NAME.test(plugin.name))
    throw invalid(`its name ${JSON.stringify(plugin.name)} must match ${PLUGIN_NAME.source}`);
  if (typeof plugin.register !== 'function') throw invalid(`${plugin.name} has no function register`);
  for (const peer of plugin.peers ?? []) {
    if (typeof peer?.name !== 'string' || typeof peer.range !== 'string') throw invalid(`a peer of ${plugin.name} needs name and range`);
  }
  return plugin;
}
