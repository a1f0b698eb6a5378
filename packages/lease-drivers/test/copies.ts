/** Another copy of a package, as a lock file that resolves it twice brings about. */
import { cp, mkdtemp, realpath, rm, symlink } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { pathToFileURL } from 'node:url'

export interface Copy<Module> extends AsyncDisposable {
  readonly module: Module
}

/** Loads a second copy of this package. What it imports from other packages is the same as here. */
export async function anotherCopy<Module>(name: string): Promise<Copy<Module>> {
  const { resolve } = createRequire(import.meta.url)
  const manifest = await realpath(resolve(`${name}/package.json`))
  const home = dirname(manifest)
  const entry = relative(home, await realpath(resolve(name)))
  const folder = await realpath(await mkdtemp(join(tmpdir(), `${name}-`)))
  const dispose = async (): Promise<void> => rm(folder, { recursive: true, force: true })
  try {
    await cp(manifest, join(folder, 'package.json'))
    await cp(join(home, dirname(entry)), join(folder, dirname(entry)), { recursive: true })
    await symlink(join(home, 'node_modules'), join(folder, 'node_modules'))
    const module = (await import(pathToFileURL(join(folder, entry)).href)) as Module
    return { module, [Symbol.asyncDispose]: dispose }
  } catch (error) {
    await dispose()
    throw error
  }
}
