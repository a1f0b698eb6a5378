import { expect } from 'chai'
import { fileURLToPath } from 'node:url'
import { type FileOptions, type FileResult, runFile, runFiles } from '#src/file-run.ts'
import type { Part } from '#src/protocol.ts'
import { inBatches, type TestFile } from '#src/test-files.ts'

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

async function run(name: string, how: How = {}): Promise<FileResult> {
  return await runFile(fixture(name, how), optionsOf(how.options))
}

function states({ outcomes }: FileResult): Record<string, string> {
  return Object.fromEntries(outcomes.map(({ path, state }) => [path.join(' › '), state]))
}

describe('the run of a test file', () => {
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

  it('rejects with the reason when a server cannot be had', async () => {
    let error: unknown
    const targets = async (): Promise<string> => Promise.reject(new Error('no such server'))
    await run('servers', { options: { targets } }).catch((thrown: unknown) => (error = thrown))
    expect(error).to.be.an.instanceOf(Error).with.property('message', 'no such server')
  })

  it('several in one process are reported each for itself; the one in which it dies fails, and the next ones run', async () => {
    const results: FileResult[] = []
    const files = ['outcomes', 'crash', 'process', 'process-again'].map((name) => fixture(name))
    await runFiles(files, optionsOf(), (result) => results.push(result))
    expect(results.map(({ file }) => file.path)).to.deep.equal(['outcomes', 'crash', 'process', 'process-again'])
    const counts = results.map(({ outcomes }) => outcomes.filter(({ state }) => state === 'failed').length)
    expect(counts).to.deep.equal([3, 1, 0, 0])
    expect(results.every(({ outcomes }) => outcomes.length > 0)).to.equal(true)
    const pids = results.slice(2).map(({ output }) => output.trim())
    expect(pids[0]).to.match(/^pid \d+$/)
    expect(pids[1], 'in the same process').to.equal(pids[0])
  })
})

describe('which files share a process', () => {
  const file = (path: string, expectedMs: number, part?: Part): TestFile => ({ ...fixture(path), expectedMs, part })

  it('small ones of one folder do, while they take no longer together than others alone', () => {
    const [a1, a2, b1] = [file('a/1', 1000), file('a/2', 900), file('b/1', 100)]
    const long = file('a/long', 7000)
    const part = file('a/part', 100, { index: 0, last: false })
    expect(inBatches([long, a1, a2, part, b1])).to.deep.equal([[long], [a1, a2], [part], [b1]])
    const many = Array.from({ length: 20 }, (_, index) => file(`a/${index}`, 1000))
    expect(inBatches(many).map(({ length }) => length)).to.deep.equal([15, 5])
    expect(inBatches(many).flat()).to.deep.equal(many)
  })
})
