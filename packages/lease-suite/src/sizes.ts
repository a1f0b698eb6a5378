/** How large the packages are once npm has installed them, and how long an import takes. */
import { execFile } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { publishedPackages } from './checks.ts'
import { installPackages } from './consumers.ts'

export interface PackageSize {
  readonly name: string
  /** The files of the package. */
  readonly ownBytes: number
  /** What is installed with it: its dependencies and those peers that it cannot do without, with theirs. No driver is among them. */
  readonly withBytes: number
  /** The names of these, without its own. */
  readonly brings: readonly string[]
  /** The median of several processes, from before the import to after it. */
  readonly importMs: number
}

/** @throws the packages cannot be packed, installed or imported */
export async function measureSizes({ imports = 9 }: { readonly imports?: number } = {}): Promise<PackageSize[]> {
  const project = await mkdtemp(join(tmpdir(), 'lease-sizes-'))
  try {
    const names = publishedPackages()
    await installPackages(project, names)
    const times = await importTimes(project, names, imports)
    return names.map((name) => {
      const modules = join(project, 'node_modules')
      const folders = installedWith(modules, name)
      return {
        name,
        ownBytes: bytesOf(join(modules, name)),
        withBytes: [...folders.keys()].reduce((sum, folder) => sum + bytesOf(folder), 0),
        brings: [...new Set(folders.values())].filter((one) => one !== name),
        importMs: times.get(name) ?? Number.NaN,
      }
    })
  } finally {
    await rm(project, { recursive: true, force: true })
  }
}

interface Manifest {
  readonly dependencies?: Readonly<Record<string, string>>
  readonly peerDependencies?: Readonly<Record<string, string>>
  readonly peerDependenciesMeta?: Readonly<Record<string, { readonly optional?: boolean }>>
}

/** The folders of this package and of all that it needs, each with the name of its package. */
export function installedWith(modules: string, name: string): ReadonlyMap<string, string> {
  const found = new Map<string, string>()
  const add = (one: string, from: string): void => {
    const folder = resolved(one, from)
    if (folder === undefined) throw new Error(`${one} is not installed for ${from}`)
    if (found.has(folder)) return
    found.set(folder, one)
    const manifest = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Manifest
    const { dependencies = {}, peerDependencies = {}, peerDependenciesMeta = {} } = manifest
    const peers = Object.keys(peerDependencies).filter((peer) => peerDependenciesMeta[peer]?.optional !== true)
    for (const next of [...Object.keys(dependencies), ...peers]) add(next, folder)
  }
  add(name, dirname(modules))
  return found
}

/** Where Node finds it from this folder. */
function resolved(name: string, from: string): string | undefined {
  for (let folder = from; ; folder = dirname(folder)) {
    const candidate = join(folder, 'node_modules', name)
    if (existsSync(join(candidate, 'package.json'))) return candidate
    if (dirname(folder) === folder) return undefined
  }
}

/** The bytes of its files, without packages that it has installed for itself. */
function bytesOf(folder: string): number {
  return readdirSync(folder, { withFileTypes: true }).reduce((sum, entry) => {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) return sum + (entry.name === 'node_modules' ? 0 : bytesOf(path))
    return sum + statSync(path).size
  }, 0)
}

/** Round by round, so that what slows the machine down slows all of them. */
async function importTimes(
  project: string,
  names: readonly string[],
  rounds: number,
): Promise<ReadonlyMap<string, number>> {
  const samples = new Map<string, number[]>(names.map((name) => [name, []]))
  for (let round = 0; round < rounds; round++) {
    for (const [name, of] of samples) {
      const text = `const t = performance.now(); await import('${name}'); console.log(performance.now() - t); process.exit()`
      const args = ['--input-type=module', '--eval', text]
      // oxlint-disable-next-line no-await-in-loop -- one at a time is what is measured
      const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: project })
      of.push(Number(stdout))
    }
  }
  return new Map([...samples].map(([name, of]) => [name, of.toSorted((a, b) => a - b)[of.length >> 1] as number]))
}
