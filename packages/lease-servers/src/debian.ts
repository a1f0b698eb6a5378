/**
 * Debian packages without installing them: no root, no service that starts by itself, nothing outside a cache folder.
 */
import { existsSync } from 'node:fs'
import { mkdir, readdir, rename } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ServerHome, installed, output } from './process.ts'
import { report } from './progress.ts'

const defaultCache = join(dirname(fileURLToPath(import.meta.url)), '..', 'node_modules', '.cache', 'debian')

/** Large libraries that the servers load only for features no test uses. */
const needless = /^lib(llvm|z3|perl|python|tcl|json|c6|c-bin)/

/**
 * The root folder of the unpacked packages together with the shared libraries that this machine lacks for them; a warm
 * cache needs no network. `libraryPath` is for LD_LIBRARY_PATH.
 * @throws with a hint when apt does not know a package or cannot fetch it.
 */
export async function unpackDebian(
  names: readonly [string, ...string[]],
  cache: string = defaultCache,
): Promise<{ root: string; libraryPath: string }> {
  const root = join(cache, names[0])
  if (!existsSync(root)) await fetchInto(root, cache, names)
  const libraries = join(root, 'usr', 'lib')
  const triplets = (await readdir(libraries).catch(() => [])).filter((entry) => entry.includes('-linux-'))
  return { root, libraryPath: triplets.map((triplet) => join(libraries, triplet)).join(':') }
}

async function fetchInto(root: string, cache: string, names: readonly [string, ...string[]]): Promise<void> {
  for (const tool of ['apt-get', 'dpkg-deb']) {
    if (!(await installed(tool))) throw new Error(`${tool} is not on this machine`)
  }
  await mkdir(cache, { recursive: true })
  // A home, so that a run that is killed leaves nothing half unpacked; in the cache, so that a rename is all that is left to do.
  await using home = new ServerHome(names[0], 'KILL', cache)
  const work = home.dir
  const apt = new Apt(cache)
  const libraries = await inTurn(async () => await apt.missingLibraries(names))
  report(`downloading ${names[0]} from Debian's archive`)
  await apt.get(['download', ...names, ...libraries], work)
  report(`unpacking ${names[0]}`)
  for (const file of await readdir(work)) {
    if (file.endsWith('.deb')) await output('dpkg-deb', ['-x', file, 'root'], { cwd: work })
  }
  await rename(join(work, 'root'), root).catch((error: unknown) => {
    if (!existsSync(root)) throw error // else another process was first
  })
}

/** How long another process may be at it. */
const LOCKED_MS = 300_000

/** Asks the archive which packages there are; one process at a time may. @throws what apt-get says */
export async function updateDebian(): Promise<void> {
  const untilMs = performance.now() + LOCKED_MS
  for (;;) {
    try {
      await output('apt-get', ['-q', 'update'])
      return
    } catch (error) {
      const { stderr } = (error as Error).cause as { readonly stderr?: string }
      const isLocked = /Could not get lock|Unable to lock/.test(`${stderr} ${String(error)}`)
      if (!isLocked || performance.now() > untilMs) throw error
      await new Promise((resolve) => setTimeout(resolve, 1_000))
    }
  }
}

let last: Promise<unknown> = Promise.resolve()

/** One at a time: the first makes what the others read. */
async function inTurn<T>(work: () => Promise<T>): Promise<T> {
  const turn = last.then(work)
  last = turn.catch(() => {})
  return await turn
}

/** The commands of apt, which keep what they have read of the lists of packages: images of Debian turn that off, and it takes a second. */
class Apt {
  readonly #kept: readonly string[]

  constructor(cache: string) {
    this.#kept = ['-o', `Dir::Cache::pkgcache=${join(cache, 'pkgcache.bin')}`]
  }

  async get(args: readonly string[], cwd?: string): Promise<string> {
    return await output('apt-get', ['-q', ...this.#kept, ...args], cwd === undefined ? {} : { cwd })
  }

  /** What an installation would add, libraries only. @throws when apt knows no such package, also after an update */
  async missingLibraries(names: readonly [string, ...string[]]): Promise<string[]> {
    const [name] = names
    let isKnown = await this.#knows(name)
    if (!isKnown && process.getuid?.() === 0) {
      report(`asking Debian's archive for ${name}`)
      await updateDebian()
      isKnown = await this.#knows(name)
    }
    if (!isKnown) throw new Error(`apt knows no package ${name} (apt-get update may help)`)
    const plan = await this.get(['-s', '--no-install-recommends', 'install', ...names])
    const added = [...plan.matchAll(/^Inst (\S+)/gm)].map((match) => match[1] ?? '')
    return added.filter((one) => one.startsWith('lib') && !needless.test(one) && !names.includes(one))
  }

  async #knows(name: string): Promise<boolean> {
    const policy = await output('apt-cache', [...this.#kept, 'policy', name]).catch(() => '')
    return /Candidate: \d/.test(policy)
  }
}
