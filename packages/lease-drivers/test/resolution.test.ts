import { createRequire } from 'node:module'
import { expect } from 'chai'
import * as core from 'lease-core'
import ts from 'typescript'

const { ModuleKind, ModuleResolutionKind } = ts
const modes = {
  node10: { moduleResolution: ModuleResolutionKind.Node10, module: ModuleKind.CommonJS },
  node16: { moduleResolution: ModuleResolutionKind.Node16, module: ModuleKind.Node16 },
  nodenext: { moduleResolution: ModuleResolutionKind.NodeNext, module: ModuleKind.NodeNext },
  bundler: { moduleResolution: ModuleResolutionKind.Bundler, module: ModuleKind.ESNext },
}
const entries = [
  'lease-core',
  'lease-core/testing',
  'lease-core/conformance',
  'lease-postgres',
  'lease-redis',
  'lease-etcd',
  'lease-dynamodb',
  'lease-recipes',
]

/** As they will be after a build, whether there was one or not. */
const host: ts.ModuleResolutionHost = {
  ...ts.sys,
  fileExists: (file) =>
    ts.sys.fileExists(file.replace('/dist/', '/src/').replace(/\.d\.ts$/, '.ts')) || ts.sys.fileExists(file),
  directoryExists: (folder) => ts.sys.directoryExists(folder.replace(/\/dist\b/, '/src')),
}

describe('the packages', () => {
  for (const [mode, options] of Object.entries(modes)) {
    it(`have types under moduleResolution ${mode}`, () => {
      for (const entry of entries) {
        const { resolvedModule } = ts.resolveModuleName(
          entry,
          `${process.cwd()}/packages/lease-drivers/any.ts`,
          options,
          host,
        )
        expect(resolvedModule?.resolvedFileName, entry).to.match(/\/dist\/(.+\/)?index\.d\.ts$/)
      }
    })
  }

  it('can be required by CommonJS, in one copy with those that import them', () => {
    const required = createRequire(import.meta.url)('lease-core') as typeof core
    expect(required.Manager).to.be.a('function').and.equal(core.Manager)
  })
})
