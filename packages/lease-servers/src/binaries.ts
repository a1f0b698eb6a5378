/**
 * Where the programs of a server come from: one search over the origins, and one way to make them run as the account that
 * servers run as.
 */
import { existsSync } from 'node:fs'
import { cp } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { unpackDebian } from './debian.ts'
import { reasonIn } from './failures.ts'
import { ServerHome, output, serverAccount } from './process.ts'
import { report } from './progress.ts'

/** `system`: PATH and the usual folders. `embedded`: npm package. `debian`: unpacked package. */
export type Origin = 'system' | 'embedded' | 'debian'

/** Programs that have been found, in the folder `bin`. */
export interface Binaries<O extends Origin = Origin> {
  readonly origin: O
  readonly bin: string
  /** What they need, besides what is in `bin`, lies in here; undefined when that is the whole system. */
  readonly root: string | undefined
  /** For LD_LIBRARY_PATH; may be empty. */
  readonly libraryPath: string
}

/** What to look for. */
export interface Wanted<O extends Origin> {
  /** For messages: `PostgreSQL 18`. */
  readonly title: string
  /** The program that is asked for its version. */
  readonly program: string
  /** Whether this answer to `--version` will do. */
  suits(answer: string): boolean
  /** How to get candidates from each origin, in the order of preference. @throws when there are none. */
  readonly origins: Readonly<Record<O, () => Promise<readonly Omit<Binaries, 'origin'>[]>>>
  /** What to tell somebody on whose machine there is none. */
  readonly hint: string
}

/** Programs, and what the first of them answers to `--version`. */
export interface Found<O extends Origin> {
  readonly binaries: Binaries<O>
  readonly answer: string
}

const searches = new Map<string, Promise<Found<Origin>>>()

/**
 * The first candidate that suits, runnable by the account of servers. The environment variable `LEASE_SERVERS_ORIGINS`
 * (for example `embedded,debian`) restricts the search. What has been found once is not looked for again.
 * @throws with a message of one line that says what to do when none suits.
 */
export async function findBinaries<O extends Origin>(wanted: Wanted<O>): Promise<Found<O>> {
  const key = JSON.stringify([wanted.title, process.env['LEASE_SERVERS_ORIGINS'], process.env['PATH']])
  const search = searches.get(key) ?? searchFor(wanted)
  searches.set(key, search)
  search.catch(() => searches.delete(key)) // next time there may be a network
  return (await search) as Found<O>
}

async function searchFor<O extends Origin>(wanted: Wanted<O>): Promise<Found<O>> {
  report(`looking for ${wanted.title}`)
  const allowed = process.env['LEASE_SERVERS_ORIGINS']?.split(',').map((word) => word.trim())
  const failures: string[] = []
  const causes: unknown[] = []
  for (const origin of Object.keys(wanted.origins) as O[]) {
    if (allowed !== undefined && !allowed.includes(origin)) continue
    try {
      for (const candidate of await wanted.origins[origin]()) {
        const binaries = { origin, ...candidate }
        if (!existsSync(join(binaries.bin, wanted.program))) continue
        const answer = await versionOf(binaries, wanted.program)
        if (!wanted.suits(answer)) failures.push(`${origin}: ${binaries.bin} has ${answer.split('\n')[0] ?? ''}`)
        else return { binaries: await runnable(binaries, wanted.program), answer }
      }
      failures.push(`${origin}: nothing that suits`)
    } catch (error) {
      failures.push(`${origin}: ${reasonIn(error instanceof Error ? error.message : String(error))}`)
      causes.push(error)
    }
  }
  const cause = new AggregateError(causes, failures.join('; '))
  throw new Error(`no ${wanted.title} on this machine: ${wanted.hint} (${failures.join('; ')})`, { cause })
}

/** Candidates on PATH and in these folders. */
export function systemFolders(...usual: readonly string[]): readonly Omit<Binaries, 'origin'>[] {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), ...usual]
  return folders.map((bin) => ({ bin, root: undefined, libraryPath: '' }))
}

/** The one candidate in these unpacked Debian packages. `bin` is relative to their root. */
export async function debianFolder(bin: string, ...names: [string, ...string[]]): Promise<Omit<Binaries, 'origin'>[]> {
  const { root, libraryPath } = await unpackDebian(names)
  return [{ bin: join(root, bin), root, libraryPath }]
}

/** The environment that these programs need. */
export function environment(binaries: Pick<Binaries, 'libraryPath'>): NodeJS.ProcessEnv {
  return binaries.libraryPath === '' ? {} : { LD_LIBRARY_PATH: binaries.libraryPath }
}

const copies = new Map<string, Promise<Binaries>>()

/** The same programs where the servers' account can run them: a clone under /root is closed to anybody else. */
async function runnable<O extends Origin>(found: Binaries<O>, program: string): Promise<Binaries<O>> {
  const account = serverAccount()
  if (account === undefined) return found
  try {
    await versionOf(found, program, account)
    return found
  } catch (error) {
    if (found.root === undefined) throw error
    const copy = copies.get(found.root) ?? copied(found, found.root)
    copies.set(found.root, copy)
    const moved: Binaries<O> = { ...(await copy), origin: found.origin }
    await versionOf(moved, program, account)
    return moved
  }
}

/** One copy serves all servers of this process and goes with it. */
async function copied(found: Binaries, root: string): Promise<Binaries> {
  report('copying the programs to where servers may run them')
  const to = join(new ServerHome('binaries').dir, 'root')
  await cp(root, to, { recursive: true, verbatimSymlinks: true })
  const libraryPath = found.libraryPath.split(':').map((one) => one.replace(root, to))
  return { origin: found.origin, bin: found.bin.replace(root, to), root: to, libraryPath: libraryPath.join(':') }
}

async function versionOf(binaries: Binaries, program: string, account?: ServerHome['account']): Promise<string> {
  return await output(join(binaries.bin, program), ['--version'], { account, env: environment(binaries) })
}
