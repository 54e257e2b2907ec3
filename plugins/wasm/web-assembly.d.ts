/** What of https://webassembly.github.io/spec/js-api/ is used here: only the types of browsers have it. */
declare namespace WebAssembly {
  type ExportValue = ((...parameters: never[]) => unknown) | Memory | object;
  type Exports = Record<string, ExportValue>;
  type ModuleImports = Record<string, (...parameters: never[]) => unknown>;
  type Imports = Record<string, ModuleImports>;

  interface ModuleExportDescriptor {
    readonly name: string;
    readonly kind: 'function' | 'table' | 'memory' | 'global' | 'tag';
  }

  interface ModuleImportDescriptor extends ModuleExportDescriptor {
    readonly module: string;
  }

  interface Memory {
    readonly buffer: ArrayBuffer;
  }

  interface Instance {
    readonly exports: Exports;
  }

  const Module: {
    new (bytes: Uint8Array): Module;
    exports(module: Module): ModuleExportDescriptor[];
    imports(module: Module): ModuleImportDescriptor[];
  };
  const Instance: new (module: Module, imports: Imports) => Instance;
  const RuntimeError: new (message?: string) => Error;
  const LinkError: new (message?: string) => Error;

  function compile(bytes: Uint8Array): Promise<Module>;
}
