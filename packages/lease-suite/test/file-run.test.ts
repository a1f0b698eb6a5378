import { expect } from 'chai'
import { fileURLToPath } from 'node:url'
import { isMatrix } from 'lease-servers'
import { type FileOptions, type FileResult, runFile, TestProcesses } from '#src/file-run.ts'
import type { Part } from '#src/protocol.ts'
import type { TestFile } from '#src/test-files.ts'

interface How {
  readonly part?: Part
  readonly exclude?: RegExp
  readonly options?: Partial<FileOptions>
}

/** A file of `fixtures`. */
function fixture(name: string, { part, exclude }: How = {}): TestFile {
  const built = fileURLToPath(new URL(`../.test-js/fixtures/${name}.js`, import.meta.url))
  return { path: name, built, part, exclude, title: name, expectedMs: 0 }
}

function optionsOf(options: Partial<FileOptions> = {}): FileOptions {
  return { timeoutMs: 60_000, signal: new AbortController().signal, targets: async () => '{}', ...options }
}

/** For all that take no options: each process costs half a second. */
const shared = new TestProcesses(optionsOf())

async function run(name: string, how: How = {}): Promise<FileResult> {
  const file = fixture(name, how)
  return await (how.options === undefined ? shared.run(file) : runFile(file, optionsOf(how.options)))
}

function states({ outcomes }: FileResult): Record<string, string> {
  return Object.fromEntries(outcomes.map(({ path, state }) => [path.join(' › '), state]))
}

describe('the run of a test file', () => {
  after(() => shared.end())

  const matrixOnly = isMatrix() ? it : it.skip // up to four more processes for each

  it('reports every outcome, with bigints, unheard rejections and what was awaited', async () => {
    const result = await run('outcomes')
    expect(states(result)).to.deep.equal({
      'first › passes': 'passed',
      'first › fails with bigints': 'failed',
      'first › is skipped': 'skipped',
      'second › rejects unheard › (unhandled rejection)': 'failed',
      'second › rejects unheard': 'passed',
      'second › waits in vain': 'failed',
      'third › passes as well': 'passed',
    })
    const failure = (title: string): string =>
      result.outcomes.find(({ path }) => path.join(' › ') === title)?.failure ?? ''
    expect(failure('first › fails with bigints')).to.contain('-  "token": "1"').and.contain('+  "token": "2"')
    expect(failure('second › rejects unheard › (unhandled rejection)')).to.contain('on purpose')
    expect(failure('second › waits in vain')).to.contain('waiting for the end of time (last seen: 0)')
  })

  it('takes one top-level suite, or it and all later ones', async () => {
    const first = await run('outcomes', { part: { index: 0, last: false } })
    const rest = await run('outcomes', { part: { index: 1, last: true } })
    expect(Object.keys(states(first)).map((title) => title.split(' › ')[0])).to.deep.equal(['first', 'first', 'first'])
    expect(new Set(Object.keys(states(rest)).map((title) => title.split(' › ')[0]))).to.deep.equal(
      new Set(['second', 'third']),
    )
    expect(first.suitesMs).to.have.length(1)
    expect(rest.suitesMs).to.have.length(2)
  })

  it('leaves out suites by their titles', async () => {
    expect(states(await run('outcomes', { exclude: /first|second/ }))).to.deep.equal({
      'third › passes as well': 'passed',
    })
  })

  it('says whether a grep has matched', async () => {
    const some = await run('outcomes', { options: { grep: /third passes/ } })
    expect(states(some)).to.deep.equal({ 'third › passes as well': 'passed' })
    expect(some.matched).to.equal(true)
    const none = await run('outcomes', { options: { grep: /nothing is called so/ } })
    expect(none.outcomes).to.deep.equal([])
    expect(none.matched).to.equal(false)
  })

  it('fails when the process ends before its tests do, and says after which', async () => {
    const { outcomes } = await run('crash')
    expect(outcomes.map(({ state }) => state)).to.deep.equal(['passed', 'failed'])
    expect(outcomes[1]?.failure).to.contain('code 3').and.contain('comes after this')
  })

  it('fails when the file cannot be loaded, and says why', async () => {
    const { outcomes } = await run('broken')
    expect(outcomes.map(({ state }) => state)).to.deep.equal(['failed'])
    expect(outcomes[0]?.failure).to.contain('on purpose')
  })

  it('asks for the servers that the file uses, and lets it reach them', async () => {
    const asked: (readonly string[])[] = []
    const targets = async (names: readonly string[]): Promise<string> => {
      asked.push(names)
      return JSON.stringify({ [names[0] ?? '']: { url: 'redis://somewhere' } })
    }
    // With REDIS_URL the server has another name, and is found all the same.
    const result = await run('servers', { options: { targets } })
    expect(asked).to.have.length(1)
    expect(result.output).to.contain('redis://somewhere')
  })

  matrixOnly('rejects with the reason when a server cannot be had', async () => {
    let error: unknown
    const targets = async (): Promise<string> => Promise.reject(new Error('no such server'))
    await run('servers', { options: { targets } }).catch((thrown: unknown) => (error = thrown))
    expect(error).to.be.an.instanceOf(Error).with.property('message', 'no such server')
  })

  it('several in one process are reported each for itself; the one in which it dies fails, and the next has another', async () => {
    const processes = new TestProcesses(optionsOf())
    const results: FileResult[] = []
    for (const name of ['process', 'outcomes', 'process-again', 'crash', 'process']) {
      results.push(await processes.run(fixture(name)))
    }
    await processes.end()
    const counts = results.map(({ outcomes }) => outcomes.filter(({ state }) => state === 'failed').length)
    expect(counts).to.deep.equal([0, 3, 0, 1, 0])
    expect(results.every(({ outcomes }) => outcomes.length > 0)).to.equal(true)
    const [first, , again] = results.map(({ output }) => output.trim())
    expect(first).to.match(/^pid \d+$/)
    expect(again, 'in the same process').to.equal(first)
  })

  matrixOnly('one of lease-core comes after none that has asked for servers', async () => {
    const processes = new TestProcesses(optionsOf())
    const pids: string[] = []
    const ofCore = { ...fixture('process-again'), path: 'packages/lease-core/test/any.test.ts' }
    for (const file of [fixture('process'), ofCore]) {
      await processes.run(fixture('servers'))
      pids.push((await processes.run(file)).output.trim())
    }
    await processes.end()
    expect(pids[0]).to.match(/^pid \d+$/)
    expect(pids[1])
      .to.match(/^pid \d+$/)
      .and.not.to.equal(pids[0])
  })

  it('files that run at a time have a process each, and the parts of one may share theirs', async () => {
    const processes = new TestProcesses(optionsOf())
    const both = await Promise.all(['process', 'process-again'].map(async (name) => await processes.run(fixture(name))))
    const parts = []
    for (const part of [
      { index: 0, last: false },
      { index: 1, last: true },
    ]) {
      parts.push(await processes.run(fixture('outcomes', { part })))
    }
    await processes.end()
    expect(new Set(both.map(({ output }) => output.trim())).size).to.equal(2)
    expect(parts.map(({ suitesMs }) => suitesMs.length)).to.deep.equal([1, 2])
  })
})
