/**
 * The program that runs test files, one after the other: it loads the file, asks for the servers that the file uses, runs the
 * tests, and reports every outcome at once, so that nothing is lost when the process dies.
 */
import { basename } from 'node:path'
import { pathToFileURL } from 'node:url'
import { format } from 'node:util'
import { askedServers, provideTargets, whatIsAwaited } from 'lease-servers'
import Mocha from 'mocha'
import type { Message, Order, Outcome, Part, Reply, Work } from './protocol.ts'

process.on('message', (message: Order | Reply) => {
  if (message === 'end') process.exit()
  if (!('file' in message)) return
  run(message).catch((error: unknown) => {
    tell({
      kind: 'outcome',
      outcome: { path: ['(loading the file)'], state: 'failed', ms: 0, failure: stackOf(error) },
    })
    end({ suitesMs: [], matched: true })
  })
})
process.once('disconnect', () => process.exit(1)) // the test command is gone

async function run(order: Work): Promise<void> {
  process.title = `test ${basename(order.file)}` // for `ps` and `top`
  const { timeoutMs: timeout, bail } = order
  const mocha = new Mocha({ timeout, bail, forbidOnly: true, reporter: Silent, ...grepOf(order) })
  await load(order.file, mocha)
  choose(mocha.suite, order)
  const servers = askedServers()
  if (servers.length > 0) provideTargets((await answer({ kind: 'needs', servers })).targets)

  const suites = mocha.suite.suites.map((suite) => ({ suite, startedMs: 0, ms: 0 }))
  const timed = (suite: Mocha.Suite): (typeof suites)[number] | undefined => suites.find((one) => one.suite === suite)
  const runner = mocha.run(() => {
    stopListening()
    mocha.dispose() // the process goes on to other files
    end({ suitesMs: suites.map(({ ms }) => Math.round(ms)), matched: runner.total > 0 || !order.grep })
  })
  const { EVENT_SUITE_BEGIN, EVENT_SUITE_END, EVENT_TEST_PASS, EVENT_TEST_FAIL, EVENT_TEST_PENDING } =
    Mocha.Runner.constants
  runner.on(EVENT_SUITE_BEGIN, (suite) => {
    const one = timed(suite)
    if (one !== undefined) one.startedMs = performance.now()
  })
  runner.on(EVENT_SUITE_END, (suite) => {
    const one = timed(suite)
    if (one !== undefined) one.ms = performance.now() - one.startedMs
  })
  runner.on(EVENT_TEST_PASS, (test) => report(test, 'passed'))
  runner.on(EVENT_TEST_PENDING, (test) => report(test, 'skipped'))
  runner.on(EVENT_TEST_FAIL, (test, error) => report(test, 'failed', described(test, error)))
  const stopListening = failOnUnheard(runner)
}

/** How many files this process has loaded. */
let loads = 0

/** Loads the file again for each of its parts, which `loadFilesAsync` of mocha does not. What the file imports is loaded once. */
async function load(file: string, mocha: Mocha): Promise<void> {
  const { EVENT_FILE_PRE_REQUIRE, EVENT_FILE_REQUIRE, EVENT_FILE_POST_REQUIRE } = Mocha.Suite.constants
  mocha.suite.emit(EVENT_FILE_PRE_REQUIRE, globalThis, file, mocha)
  const loaded: unknown = await import(`${pathToFileURL(file).href}?load=${++loads}`)
  mocha.suite.emit(EVENT_FILE_REQUIRE, loaded, file, mocha)
  mocha.suite.emit(EVENT_FILE_POST_REQUIRE, globalThis, file, mocha)
}

/** Keeps the suites that were ordered. Tests outside of any suite belong to the first part. */
function choose(root: Mocha.Suite, { part, exclude }: Work): void {
  root.suites = root.suites.filter(({ title }, index) => isIn(index, part) && !exclude?.test(title))
  if (part !== undefined && part.index > 0) root.tests = []
}

function isIn(index: number, part: Part | undefined): boolean {
  return part === undefined || index === part.index || (part.last && index > part.index)
}

function grepOf({ grep }: Work): { grep?: RegExp } {
  return grep === undefined ? {} : { grep }
}

/** A rejection that nobody handles fails the file, unless a test listens for such rejections itself. */
function failOnUnheard(runner: Mocha.Runner): () => void {
  const ours = new Set(process.listeners('unhandledRejection'))
  const reported = new WeakSet<Promise<unknown>>() // mocha's own listener emits the event once more
  const onUnheard = (reason: unknown, promise: Promise<unknown>): void => {
    const others = process.listeners('unhandledRejection').filter((one) => one !== onUnheard && !ours.has(one))
    if (others.length > 0 || reported.has(promise)) return
    reported.add(promise)
    const failure = `a promise was rejected, and nobody handled it: ${stackOf(reason)}`
    const during = runner.test?.titlePath() ?? []
    tell({ kind: 'outcome', outcome: { path: [...during, '(unhandled rejection)'], state: 'failed', ms: 0, failure } })
  }
  process.on('unhandledRejection', onUnheard)
  return () => process.off('unhandledRejection', onUnheard)
}

function report(test: Mocha.Test | Mocha.Hook, state: Outcome['state'], failure?: string): void {
  const ms = test.duration ?? 0
  tell({ kind: 'outcome', outcome: { path: test.titlePath(), state, ms, failure } })
}

/** As mocha's reporters print it, with what the test was waiting for when it ran out of time. */
function described(test: Mocha.Test | Mocha.Hook, error: unknown): string {
  let text = ''
  const print = Mocha.reporters.Base.consoleLog
  Mocha.reporters.Base.consoleLog = (...args: unknown[]) => void (text += `${format(...args)}\n`)
  try {
    Mocha.reporters.Base.list([test as Mocha.Test])
    // It begins with a number and the titles, which the report prints by itself.
    text = text.replace(/^\s*1\) [^]*?:\n+(?=\s+\S)/, '')
  } catch {
    text = stackOf(error)
  } finally {
    Mocha.reporters.Base.consoleLog = print
  }
  const timedOut = error instanceof Error && 'code' in error && error.code === 'ERR_MOCHA_TIMEOUT'
  const awaited = timedOut ? whatIsAwaited().map((what) => `\nwaiting for ${what}`) : []
  return `${text.replaceAll(/^ {1,6}/gm, '').trim()}${awaited.join('')}`
}

/** Without the frames of mocha and Node, which say nothing about the failure. */
function stackOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const lines = (error.stack ?? error.message).split('\n')
  return lines.filter((line) => !/^ +at .*(node_modules\/mocha\/|\(?node:internal)/.test(line)).join('\n')
}

/** Outcomes are sent as they come; mocha itself prints nothing, but its base class renders errors. */
class Silent extends Mocha.reporters.Base {}

function tell(message: Message): void {
  process.send?.(message)
}

async function answer(message: Message): Promise<Reply> {
  const reply = new Promise<Reply>((resolve) => process.once('message', resolve))
  tell(message)
  return await reply
}

/** What earlier files of this process have computed. */
let computedMs = 0

function end(how: Omit<Extract<Message, { kind: 'end' }>, 'kind' | 'cpuMs'>): void {
  const { user, system } = process.cpuUsage()
  const cpuMs = (user + system) / 1000 - computedMs
  computedMs += cpuMs
  process.title = 'tests, waiting'
  tell({ kind: 'end', cpuMs, ...how })
}
