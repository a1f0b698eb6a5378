/** Packages that are too large for the workspace: npm installs them once, in a folder that later runs find again. */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { output } from './process.ts'

export interface NpmFolderOptions {
  /** Its folder in the cache begins with this. */
  readonly name: string
  /** The package.json. Its versions are exact: another text is another folder. */
  readonly manifest: string
  /** Where folders are kept, for instance `node_modules/.cache` of the caller. */
  readonly cache: string
  /** Completes the new folder. A folder for which this failed is not kept. */
  readonly prepare?: (folder: string) => Promise<void>
}

/**
 * The folder with these packages; `npm` installs them first if no earlier run has. Install scripts do not run: they would fetch programs
 * from elsewhere. Processes that ask at the same time get one folder.
 *
 * @throws when npm cannot install them, with a message of one line
 */
export async function npmFolder({ name, manifest, cache, prepare }: NpmFolderOptions): Promise<string> {
  const folder = join(cache, `${name}-${createHash('sha256').update(manifest).digest('hex').slice(0, 16)}`)
  if (existsSync(folder)) return folder
  await mkdir(cache, { recursive: true })
  const installing = await mkdtemp(join(cache, 'installing-'))
  try {
    await writeFile(join(installing, 'package.json'), manifest)
    const options = ['--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline']
    await output('npm', ['install', ...options], { cwd: installing })
    await prepare?.(installing)
    await rename(installing, folder)
  } catch (error) {
    await rm(installing, { recursive: true, force: true })
    if (!existsSync(folder)) throw error // another process may have installed them in the meantime
  }
  return folder
}
