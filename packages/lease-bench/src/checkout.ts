/** Another checkout of this project, built: its benchmark brings its own packages along. */
import { access, readFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Substrate } from './bench.ts'
import type * as Substrates from './substrates/index.ts'

/** Where the benchmark is, and where it was in earlier checkouts. */
const FOLDERS = ['packages/lease-bench', 'bench'] as const

export interface Checkout {
  readonly folder: string
  /** Its program for the process of an arm. */
  readonly armMain: string
  /** Its own view of a substrate, which prepares a place for its own packages. */
  substrateNamed(name: string): Promise<Substrate>
}

/** @throws Error in one line: the folder is no checkout of this project, or is not built */
export async function checkoutAt(folder: string): Promise<Checkout> {
  const home = resolve(folder)
  const bench = await benchIn(home)
  if (bench === undefined) {
    throw new Error(`${home} is no checkout of this project: it has no ${FOLDERS[0]}/package.json of "lease-bench"`)
  }
  const armMain = join(home, bench, 'dist', 'arm-main.js')
  const build = `npx -y pnpm@10 install && npx -y pnpm@10 exec tsc -b ${bench}`
  const built = await access(armMain).then(
    () => true,
    () => false,
  )
  if (!built) throw new Error(`${home} is not built (it has no ${bench}/dist/arm-main.js): run there: ${build}`)
  const substrates = pathToFileURL(join(home, bench, 'dist', 'substrates', 'index.js')).href
  try {
    const { substrateNamed } = (await import(substrates)) as typeof Substrates
    return {
      folder: home,
      armMain,
      substrateNamed: (name) =>
        substrateNamed(name).catch((error: unknown) => {
          throw new Error(`${home} cannot be loaded (${firstLine(error)}): run there: ${build}`)
        }),
    }
  } catch (error) {
    throw new Error(`${home} cannot be loaded (${firstLine(error)}): run there: ${build}`, { cause: error })
  }
}

/** Where the benchmark is in that checkout. */
async function benchIn(home: string): Promise<string | undefined> {
  for (const folder of FOLDERS) {
    const manifest = await readFile(join(home, folder, 'package.json'), 'utf8').catch(() => '{}')
    if (nameIn(manifest) === 'lease-bench') return folder
  }
  return undefined
}

function nameIn(manifest: string): unknown {
  try {
    return (JSON.parse(manifest) as { readonly name?: unknown }).name
  } catch {
    return undefined
  }
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0] ?? ''
}
