import { expect } from 'chai'
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isMatrix, nodeOptions, until } from 'lease-servers'
import { runs } from './runs.ts'

/** How a program starts a server, and all processes of it. */
const kinds = {
  PostgreSQL: ['startPostgres()', '[server]'],
  Redis: ['startRedis({ appendonly: true })', '[server]'],
  'Redis under sentinels': ['startRedisSentinel()', '[server.master, ...server.replicas, ...server.sentinelServers]'],
  etcd: ['startEtcd({ nodes: 3 })', 'server.members'],
} as const

type Kind = keyof typeof kinds

/** In the test command only those that start soonest: PostgreSQL has several processes, Redis has one. */
const all = isMatrix() ? (Object.keys(kinds) as readonly Kind[]) : (['PostgreSQL', 'Redis'] as const)
const states = isMatrix() ? ['running', 'paused'] : ['paused']
const ends = isMatrix() ? ['return', 'throw'] : ['throw']
const interrupted: Kind = isMatrix() ? 'PostgreSQL' : 'Redis'
const endedKinds: readonly Kind[] = isMatrix() ? ['PostgreSQL', 'Redis'] : ['Redis']

/** Starts these servers at once, prints their processes by kind, and then does what its word says. */
function programOf(chosen: readonly Kind[]): string {
  const starts = chosen.map((kind) => {
    const [start, processes] = kinds[kind]
    return `['${kind}', ${start}.then((server) => ${processes})]`
  })
  return `
    import { startEtcd, startPostgres, startRedis, startRedisSentinel } from 'lease-servers'
    const word = process.env.WORD
    const servers = await Promise.all([${starts.join(', ')}].map(async ([kind, start]) => [kind, await start]))
    if (word === 'paused') for (const [, processes] of servers) for (const one of processes) one.pause()
    const pids = servers.map(([kind, processes]) => [kind, processes.map(({ pid }) => pid)])
    console.log(JSON.stringify(Object.fromEntries(pids)))
    if (word === 'throw') throw new Error('on purpose')
    if (word !== 'return') setInterval(() => undefined, 1000)
  `
}

function startProgram(text: string, env: NodeJS.ProcessEnv): ChildProcess {
  return spawn(process.execPath, [...nodeOptions(import.meta.url), '--input-type=module', '-e', text], {
    cwd: import.meta.dirname,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, NODE_OPTIONS: '', ...env },
  })
}

/** A program that has started servers, in a folder of its own for their folders. */
class Starter {
  readonly #folder = mkdtempSync(join(tmpdir(), 'left-behind-'))
  readonly #child: ChildProcess
  readonly #pids: Promise<Readonly<Record<string, readonly number[]>>>

  constructor(chosen: readonly Kind[], word: string) {
    chmodSync(this.#folder, 0o755) // servers may run as somebody else
    this.#child = startProgram(programOf(chosen), { TMPDIR: this.#folder, WORD: word })
    this.#pids = this.#heard()
    this.#pids.catch(() => undefined) // reported by the tests that wait for it
  }

  /** The processes of its servers, once they run. */
  async pids(kind: Kind): Promise<readonly number[]> {
    return (await this.#pids)[kind] ?? []
  }

  kill(name: NodeJS.Signals): void {
    this.#child.kill(name)
  }

  folders(): readonly string[] {
    return readdirSync(this.#folder).filter((name) => name.startsWith('lease-'))
  }

  remove(): void {
    this.#child.kill('SIGKILL')
    rmSync(this.#folder, { recursive: true, force: true })
  }

  async #heard(): Promise<Readonly<Record<string, readonly number[]>>> {
    let [output, errors] = ['', '']
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => (errors += text))
    return await new Promise((resolve, reject) => {
      this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => {
        output += text
        if (output.endsWith('\n')) resolve(JSON.parse(output) as Record<string, number[]>)
      })
      this.#child.once('close', () => reject(new Error(`it has ended without servers: ${errors}`)))
    })
  }
}

/** These processes and all their descendants. */
function family(pids: readonly number[]): readonly number[] {
  const table = execFileSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' })
  const all = Array.from(table.matchAll(/(\d+)\s+(\d+)/g), ([, pid, parent]) => [Number(pid), Number(parent)] as const)
  const found = [...pids]
  for (const one of found) found.push(...all.flatMap(([pid, parent]) => (parent === one ? [pid] : []))) // grows while it is walked
  return found
}

describe('a server whose starter has ended', () => {
  const starters: Record<string, Starter> = {}

  before(() => {
    for (const word of states) starters[word] = new Starter(all, word)
    starters['interrupted'] = new Starter([interrupted], 'running')
    for (const word of ends) starters[word] = new Starter(endedKinds, word)
  })

  after(() => {
    for (const starter of Object.values(starters)) starter.remove()
  })

  function starter(name: string): Starter {
    const one = starters[name]
    if (one === undefined) throw new Error(`no starter ${name}`)
    return one
  }

  /** Resolves once no process of these runs and no folder of the starter is left. */
  async function gone(pids: readonly number[], of: Starter): Promise<void> {
    await until(`no process of ${pids.join(', ')} runs`, () => !pids.some(runs), 10)
    await until('no folder is left', () => of.folders().length === 0, 10)
  }

  for (const state of states) {
    const killed = new Map<Kind, readonly number[]>()

    it(`runs, in a folder of its own, until its starter is killed: ${state}`, async () => {
      const one = starter(state)
      let servers = 0
      for (const kind of all) {
        const pids = await one.pids(kind)
        expect(pids).not.to.deep.equal([])
        expect(pids.filter(runs)).to.deep.equal(pids)
        killed.set(kind, family(pids))
        servers += pids.length
      }
      expect(one.folders()).to.have.length(servers)
      one.kill('SIGKILL')
    })

    for (const kind of all) {
      it(`is gone with its folder after SIGKILL: ${kind}, ${state}`, async () => {
        const pids = killed.get(kind) ?? []
        expect(pids).not.to.deep.equal([])
        await gone(pids, starter(state))
      })
    }
  }

  it('is gone with its folder after SIGINT', async () => {
    const one = starter('interrupted')
    const pids = await one.pids(interrupted)
    one.kill('SIGINT')
    await gone(pids, one)
  })

  for (const end of ends) {
    it(`is gone with its folder after a ${end} without stop`, async () => {
      const one = starter(end)
      await gone((await Promise.all(endedKinds.map(async (kind) => one.pids(kind)))).flat(), one)
    })
  }
})
