/**
 * One way to run a server that is not ours to trust with our lifetime.
 *
 * Every server lives in a *home*: a temporary folder and a guardian. The guardian is a small shell process in a session of
 * its own that reads from a pipe of ours and, when that pipe closes, stops the server and removes the folder. The kernel
 * closes the pipe however we end (return, exception, Ctrl-C, SIGKILL), so there is one teardown and it cannot be missed;
 * closing the home on purpose takes the same path.
 */
import { type ChildProcess, execFile, execFileSync, spawn, type SpawnOptions } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs'
import { connect, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { failure, inFolder, reasonIn } from './failures.ts'

/** A user that may run servers: most refuse to run as root. */
export interface Account {
  readonly uid: number
  readonly gid: number
}

const guardianScript = `
dir=$1 farewell=$2
pid= stopped=
PATH=\${PATH:+$PATH:}/usr/bin:/bin # whatever our own has, for rm and sleep
trap '' HUP INT TERM
while read -r word value; do
  case $word in
    pid) pid=$value ;;
    stopped) stopped=$value ;;
  esac
done
if [ -n "$pid" ]; then
  kill -s "$farewell" -- "-$pid" 2>/dev/null
  for p in $pid $stopped; do kill -s CONT "$p" 2>/dev/null; done
  n=0
  while kill -0 "$pid" 2>/dev/null && [ "$n" -lt 250 ]; do sleep 0.02; n=$((n + 1)); done
  kill -s KILL -- "-$pid" 2>/dev/null
fi
rm -rf -- "$dir" || { sleep 1; rm -rf -- "$dir"; }
`

/** A temporary folder with at most one process in it; both are gone once the home is closed or this process has ended. */
export class ServerHome implements AsyncDisposable {
  /** The folder; the account of the home owns it, and everybody may traverse it. */
  readonly dir: string
  /** Who runs what is in the home; undefined when that is simply us. */
  readonly account: Account | undefined
  readonly #guardian: ChildProcess
  readonly #guardianGone: Promise<void>
  #child: ChildProcess | undefined
  #childGone: Promise<void> = Promise.resolve()
  #stopped: readonly number[] = []
  #logStart = 0

  /**
   * Makes the folder and its guardian, which ends the process with the signal `farewell`; one whose traces are all in the
   * folder needs no gentler one than KILL. The folder is made in `parent`.
   * @throws when the machine has no account to run a server with, or the folder cannot be made.
   */
  constructor(kind: string, farewell: 'KILL' | 'QUIT' = 'KILL', parent: string = tmpdir()) {
    this.account = serverAccount()
    this.dir = inFolder(parent, () => mkdtempSync(join(parent, `lease-${kind}-`)))
    this.#guardian = spawn('/bin/sh', ['-c', guardianScript, 'guardian', this.dir, farewell], {
      stdio: ['pipe', 'ignore', 'ignore'],
      detached: true,
      cwd: '/',
    })
    this.#guardianGone = ended(this.#guardian)
    this.#guardian.stdin?.on('error', () => undefined)
    this.#guardian.unref()
    unrefPipe(this.#guardian)
    chmodSync(this.dir, 0o755)
    if (this.account) chownSync(this.dir, this.account.uid, this.account.gid)
  }

  /** The process in the home that was started last, while it runs. */
  get pid(): number | undefined {
    return this.#child?.exitCode === null && this.#child.signalCode === null ? this.#child.pid : undefined
  }

  /** Resolves once the process started last has ended. */
  get exited(): Promise<void> {
    return this.#childGone
  }

  /** What the process started last has written, stdout and stderr together. */
  get log(): string {
    try {
      return readFileSync(join(this.dir, 'log')).toString('utf8', this.#logStart)
    } catch {
      return ''
    }
  }

  /** Writes a file that belongs to the home's account. */
  write(name: string, text: string): void {
    const path = join(this.dir, name)
    inFolder(dirname(this.dir), () => writeFileSync(path, text))
    if (this.account) chownSync(path, this.account.uid, this.account.gid)
  }

  /** Starts a process as the home's account, in a session of its own, with its output in the home's log. */
  start(command: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): void {
    const log = inFolder(dirname(this.dir), () => openSync(join(this.dir, 'log'), 'a'))
    this.#logStart = fstatSync(log).size
    const options: SpawnOptions = {
      ...this.account,
      cwd: this.dir,
      detached: true,
      env: { PATH: process.env['PATH'], HOME: this.dir, LC_ALL: 'C', TZ: 'UTC', ...env },
      stdio: ['ignore', log, log],
    }
    try {
      const child = spawn(command, [...args], options)
      this.#child = child
      this.#childGone = ended(child)
      this.#guardian.stdin?.write(`pid ${child.pid ?? ''}\n`)
      child.unref()
    } finally {
      closeSync(log)
    }
  }

  /** Runs a process in the home to its end. @throws with its output when it fails. */
  async run(command: string, args: readonly string[], env?: NodeJS.ProcessEnv): Promise<void> {
    this.start(command, args, env)
    const child = this.#child
    child?.ref()
    await this.#childGone
    this.#guardian.stdin?.write('pid\n')
    if (child?.exitCode !== 0) throw failure(`${basename(command)} failed`, this.log, this.dir)
  }

  /** Freezes the process and all its descendants, as a stopped machine would. */
  pause(): void {
    const pid = this.pid
    if (pid === undefined) throw new Error('nothing runs here')
    process.kill(pid, 'SIGSTOP') // first, so that it starts no other
    this.#stopped = [pid, ...descendants(pid)]
    this.#guardian.stdin?.write(`stopped ${this.#stopped.join(' ')}\n`)
    for (const one of this.#stopped) signal(one, 'SIGSTOP')
  }

  /** Lets a paused process go on; harmless when it is not paused. */
  resume(): void {
    for (const one of this.#stopped.toReversed()) signal(one, 'SIGCONT')
    this.#stopped = []
  }

  /** Sends a signal to the process and waits for its end. `everyone` includes its descendants. */
  async end(name: NodeJS.Signals, everyone = false): Promise<void> {
    this.resume()
    const pid = this.pid
    if (pid === undefined) return
    this.#child?.ref()
    if (everyone) signal(pid, 'SIGSTOP') // first, so that it starts no other that would survive
    const all = everyone ? [pid, ...descendants(pid)] : [pid]
    for (const one of all) signal(one, name)
    await this.#childGone
    this.#guardian.stdin?.write('pid\n')
  }

  /** Resolves once the process has ended and the folder is removed. Idempotent. */
  async close(): Promise<void> {
    this.#guardian.ref()
    this.#guardian.stdin?.end()
    await this.#guardianGone
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

/** Whether something accepts TCP connections there now. */
export async function accepts(port: number, host = '127.0.0.1'): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connect({ port, host })
    const answer = (yes: boolean): void => {
      socket.destroy()
      resolve(yes)
    }
    socket.once('connect', () => answer(true))
    socket.once('error', () => answer(false))
  })
}

/** Runs a command to its end and resolves to its output. `account` runs it as that user. @throws with a message of one line */
export async function output(
  command: string,
  args: readonly string[],
  options: { readonly account?: Account | undefined; readonly cwd?: string; readonly env?: NodeJS.ProcessEnv } = {},
): Promise<string> {
  try {
    const { stdout } = await promisify(execFile)(command, [...args], {
      ...options.account,
      cwd: options.cwd ?? '/',
      env: { ...process.env, LC_ALL: 'C', ...options.env },
      timeout: 300_000,
      maxBuffer: 64 * 1024 * 1024,
    })
    return stdout
  } catch (cause) {
    const { stderr, message } = cause as Error & { readonly stderr?: string }
    throw new Error(`${basename(command)} failed: ${reasonIn(stderr?.trim() || message)}`, { cause })
  }
}

/** Whether this command is installed. */
export async function installed(command: string): Promise<boolean> {
  return await output('/bin/sh', ['-c', 'command -v "$1"', 'sh', command]).then(
    () => true,
    () => false,
  )
}

/**
 * The account for servers: undefined for a normal user, an unprivileged one for root.
 * @throws when root has none with an entry in the passwd file, which PostgreSQL insists on.
 */
export function serverAccount(): Account | undefined {
  if (process.getuid?.() !== 0) return undefined
  const lines = readFileSync('/etc/passwd', 'utf8').split('\n')
  for (const name of ['postgres', 'nobody']) {
    const fields = lines.find((line) => line.startsWith(`${name}:`))?.split(':')
    if (fields) return { uid: Number(fields[2]), gid: Number(fields[3]) }
  }
  throw new Error('servers do not run as root and there is no user "postgres" or "nobody": run as a normal user')
}

async function ended(child: ChildProcess): Promise<void> {
  await new Promise<void>((resolve) => {
    child.once('exit', () => resolve())
    child.once('error', () => resolve())
  })
}

/** A pipe to a child is a socket that keeps this process alive, which its type does not say. */
function unrefPipe(child: ChildProcess): void {
  if (child.stdin instanceof Socket) child.stdin.unref()
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch {
    // it has ended
  }
}

function descendants(root: number): number[] {
  const children = new Map<number, number[]>()
  for (const [pid, parent] of processes()) children.set(parent, [...(children.get(parent) ?? []), pid])
  const found = [...(children.get(root) ?? [])]
  for (const pid of found) found.push(...(children.get(pid) ?? [])) // grows while it is walked
  return found
}

/** Every process with its parent. */
function processes(): [pid: number, parent: number][] {
  if (!existsSync('/proc/self/stat')) {
    const table = execFileSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' })
    return [...table.matchAll(/(\d+)\s+(\d+)/g)].map((match) => [Number(match[1]), Number(match[2])])
  }
  return readdirSync('/proc').flatMap((entry) => {
    if (!/^\d+$/.test(entry)) return []
    try {
      // pid (name) state ppid …: the name may hold anything, so read from its last bracket
      const stat = readFileSync(`/proc/${entry}/stat`, 'latin1')
      return [[Number(entry), Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])]]
    } catch {
      return [] // it has ended
    }
  })
}
