/** What a run checks besides the tests: types, lint, format, arrows, and the packages as npm would publish them. */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { availableParallelism, setPriority, tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { root } from './test-files.ts'

/** One check: resolves to what is wrong, or to undefined. */
export interface Check {
  readonly title: string
  /** Whether it reads what the build makes. */
  readonly needsBuild: boolean
  run(signal: AbortSignal): Promise<string | undefined>
}

export interface CheckResult {
  readonly title: string
  readonly ms: number
  readonly wrong: string | undefined
}

const cache = join(root, 'node_modules/.cache/lease-suite')

/** The garbage collector of the programs in Go, which live for seconds: a third of their time goes to it otherwise. */
const COLLECT_RARELY = { GOGC: '400' }

/** The niceness of what nothing waits for: it gets what build and tests leave. */
const PATIENT = 5

/**
 * Compiles everything, incrementally; two runs in one folder take turns. A project is checked by one thread, since each
 * thread more works out most types anew; several projects are checked at a time.
 */
export async function build(signal: AbortSignal): Promise<CheckResult> {
  const unlock = await lock('build', signal)
  try {
    const atOnce = String(availableParallelism())
    const tsc = command(['tsc', '-b', 'packages', '--checkers', '1', '--builders', atOnce], COLLECT_RARELY)
    return await timed({ title: 'build', run: tsc }, signal)
  } finally {
    unlock()
  }
}

/** Those that can run beside tests. */
export function checks(): readonly Check[] {
  return [
    {
      title: 'arrows',
      needsBuild: false,
      run: command(['depcruise', '--config', '.dependency-cruiser.mjs', 'packages', 'docs/examples'], {}, PATIENT),
    },
    { title: 'format', needsBuild: false, run: command(['oxfmt', '--check'], {}, PATIENT) },
    {
      title: 'lint',
      needsBuild: false,
      // One thread for the types, as in the build: tests run on the other cores.
      run: command(['oxlint', '--deny-warnings'], { ...COLLECT_RARELY, GOMAXPROCS: '1' }, PATIENT),
    },
    { title: 'words', needsBuild: true, run: wordsCheck },
    { title: 'packages', needsBuild: true, run: packageCheck },
  ]
}

export async function timed(check: Pick<Check, 'title' | 'run'>, signal: AbortSignal): Promise<CheckResult> {
  const startedMs = performance.now()
  const wrong = await check.run(signal)
  return { title: check.title, ms: performance.now() - startedMs, wrong }
}

function command(
  [name, ...args]: readonly [string, ...string[]],
  env: Readonly<Record<string, string>> = {},
  niceness = 0,
): Check['run'] {
  return async (signal) => {
    const { code, output } = await execute(join(root, 'node_modules/.bin', name), args, signal, env, niceness)
    return code === 0 ? undefined : output || `${name} ended with ${code}`
  }
}

/** In a process of its own, as the others: it reads all files at once. */
async function wordsCheck(signal: AbortSignal): Promise<string | undefined> {
  const program = join(root, 'packages/lease-suite/dist/words-main.js')
  const { code, output } = await execute(process.execPath, [program], signal)
  return code === 0 ? undefined : output || `the check of words ended with ${code}`
}

/** The packages that npm gets. */
export function publishedPackages(): readonly string[] {
  return readdirSync(join(root, 'packages')).filter((name) => {
    const file = join(root, 'packages', name, 'package.json')
    return existsSync(file) && (JSON.parse(readFileSync(file, 'utf8')) as { private?: boolean }).private !== true
  })
}

/** Packs the packages and checks them in one process; what has passed before, to the letter, passes again. */
async function packageCheck(signal: AbortSignal): Promise<string | undefined> {
  const changed = publishedPackages()
    .map((name) => ({ name, passed: join(cache, `${name}.${contentsOf(join(root, 'packages', name))}.passed`) }))
    .filter(({ passed }) => !existsSync(passed))
  if (changed.length === 0) return undefined
  const work = await mkdtemp(join(tmpdir(), 'lease-packages-'))
  try {
    const names = changed.map(({ name }) => name)
    const packed = await execute('pnpm', packArguments(names, work), signal)
    const files = (await readdir(work)).map((file) => join(work, file))
    if (packed.code !== 0 || files.length !== changed.length) {
      return packed.output || `pnpm packed ${files.length} packages of ${changed.length}`
    }
    const program = join(root, 'packages/lease-suite/dist/package-check.js')
    const { code, output } = await execute(process.execPath, [program, ...files], signal)
    if (code !== 0) return output || `the check of packages ended with ${code}`
  } finally {
    await rm(work, { recursive: true, force: true })
  }
  mkdirSync(cache, { recursive: true })
  for (const { passed } of changed) writeFileSync(passed, '')
  return undefined
}

/** With these pnpm packs packages into a folder, as npm would publish them. */
export function packArguments(names: readonly string[], folder: string): readonly string[] {
  const chosen = names.map((name) => `--filter=./packages/${name}`)
  return ['-r', ...chosen, 'pack', '--pack-destination', folder, '--config.ignore-scripts=true']
}

/** A hash of everything that would be published. */
function contentsOf(folder: string): string {
  const hash = createHash('sha256')
  for (const part of ['package.json', 'README.md', 'dist', '../../.pnpmfile.cjs']) {
    const path = join(folder, part)
    if (!existsSync(path)) continue
    const names = statSync(path).isDirectory()
      ? readdirSync(path, { recursive: true, encoding: 'utf8' }).toSorted()
      : ['']
    for (const one of names) {
      const file = join(path, one)
      if (statSync(file).isFile() && !/\.(tsbuildinfo|map)$/.test(file))
        hash.update(`${part}/${one}\0`).update(readFileSync(file))
    }
  }
  return hash.digest('hex').slice(0, 24)
}

async function execute(
  file: string,
  args: readonly string[],
  signal: AbortSignal,
  env: Readonly<Record<string, string>> = {},
  niceness = 0,
): Promise<{ code: number | null; output: string }> {
  return await new Promise((resolve) => {
    const path = `${join(root, 'node_modules/.bin')}${delimiter}${process.env['PATH'] ?? ''}`
    const child = spawn(file, [...args], {
      cwd: root,
      signal,
      env: { ...process.env, PATH: path, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    if (child.pid !== undefined) setPriority(child.pid, niceness)
    let output = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8')
      stream.on('data', (text: string) => (output += text))
    }
    child.on('error', (error) => resolve({ code: null, output: `${file}: ${error.message}` }))
    child.on('close', (code) => resolve({ code, output: output.trim() }))
  })
}

/** A file that only one process of this machine can make; one that a dead process has left is taken over. */
async function lock(name: string, signal: AbortSignal): Promise<() => void> {
  const file = join(cache, `${name}.lock`)
  mkdirSync(cache, { recursive: true })
  for (;;) {
    signal.throwIfAborted()
    try {
      writeFileSync(file, String(process.pid), { flag: 'wx' })
      return () => rmSync(file, { force: true })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
    if (leftBehind(file)) rmSync(file, { force: true })
    else await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

function leftBehind(file: string): boolean {
  try {
    const pid = Number(readFileSync(file, 'utf8'))
    return pid > 0 ? !runs(pid) : Date.now() - statSync(file).mtimeMs > 10_000
  } catch {
    return false // it has just been removed
  }
}

function runs(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
