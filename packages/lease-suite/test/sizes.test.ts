import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { expect } from 'chai'
import { installedWith } from '#src/sizes.ts'

describe('the size of a package', () => {
  it('counts what it needs, each release once, and neither optional peers nor what is not needed', async () => {
    const home = await mkdtemp(join(tmpdir(), 'sizes-'))
    const modules = join(home, 'node_modules')
    const manifests = {
      a: {
        dependencies: { b: '1', c: '1' },
        peerDependencies: { d: '1', e: '1' },
        peerDependenciesMeta: { e: { optional: true } },
      },
      b: { dependencies: { c: '2' } },
      'b/node_modules/c': { dependencies: { b: '1' } },
      c: {},
      d: { dependencies: { a: '1' } },
      e: {},
    }
    for (const [path, manifest] of Object.entries(manifests)) {
      const file = join(modules, path, 'package.json')
      await mkdir(dirname(file), { recursive: true })
      await writeFile(file, JSON.stringify(manifest))
    }
    try {
      const folders = ['a', 'b', 'b/node_modules/c', 'c', 'd'].map((path) => join(modules, path))
      expect([...installedWith(modules, 'a').keys()]).to.have.members(folders)
      await rm(join(modules, 'd'), { recursive: true })
      expect(() => installedWith(modules, 'a')).to.throw('d is not installed')
    } finally {
      await rm(home, { recursive: true })
    }
  })
})
