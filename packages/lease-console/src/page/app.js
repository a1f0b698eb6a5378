/** The page: header, routes, keys. Everything that is shown has an address, so that a link leads to it. */
import { base, everyTick, h, inWords, serverNow, setAttribute, setText } from './dom.js'
import { showLease } from './lease.js'
import { showList } from './list.js'

/** @import { Connection, Pulse } from './live.js' */

/**
 * @typedef {object} About
 * @property {string} [environment]
 * @property {boolean} readOnly
 * @property {boolean} showValues
 * @property {string[]} namespaces
 */

/**
 * What a view may use of the page.
 *
 * @typedef {object} Host
 * @property {About} about
 * @property {string} title
 * @property {string} namespace
 * @property {URLSearchParams} params of the address
 * @property {HTMLElement} main
 * @property {(changes: Record<string, string | undefined>, replace?: boolean) => void} go to another address; undefined removes a parameter
 * @property {(changes: Record<string, string | undefined>, title: string, properties?: Record<string, unknown>) => HTMLAnchorElement} link
 * @property {(bindings: Record<string, () => void>) => void} keys
 * @property {(connection: Connection, pulse: Pulse | undefined) => void} connection
 */

const CONNECTIONS = { connecting: 'Connecting…', live: 'Live', polling: 'Polling', offline: 'No answer' }

const title = document.title
const main = h('main', { id: 'main' })
const status = h('span', { class: 'status', role: 'status' })
const trouble = h('p', { class: 'trouble', role: 'alert', hidden: true })
const namespaces = h('select', {
  'aria-label': 'Namespace',
  change: () => go({ namespace: namespaces.value }, { only: true }),
})
const home = h('a', { class: 'brand', href: `${base}/` }, 'Leases')
const badge = h('span', { class: 'badge', hidden: true })
const help = h(
  'footer',
  {},
  ...[
    ['list', '/', 'filter'],
    ['list', 'j k', 'move'],
    ['list', 'Enter', 'open'],
    ['list', '[ ]', 'pages'],
    ['lease', 'r', 'revoke'],
    ['lease', 'Esc', 'back'],
  ].map(([view, key = '', meaning = '']) => h('span', { 'data-only': view }, h('kbd', {}, key), ` ${meaning}`)),
)
document.body.append(
  h('a', { class: 'skip', href: '#main' }, 'Skip to the leases'),
  h('header', {}, home, badge, namespaces, status),
  trouble,
  main,
  help,
)

/** @type {About} */
let about = { readOnly: true, showValues: false, namespaces: [] }
/** @type {() => void} */
let endView = () => {}
/** @type {Record<string, () => void>} */
let bindings = {}
/** @type {{ connection: Connection, pulse: Pulse | undefined }} */
let last = { connection: 'connecting', pulse: undefined }

/**
 * The address after these changes.
 *
 * @param {Record<string, string | undefined>} changes
 * @param {{ only?: boolean }} [options] only: the other parameters go
 */
function addressOf(changes, { only = false } = {}) {
  const params = new URLSearchParams(only ? '' : location.search)
  for (const [name, value] of Object.entries(changes)) {
    if (value === undefined) params.delete(name)
    else params.set(name, value)
  }
  const query = params.toString()
  return `${base}/${query === '' ? '' : `?${query}`}`
}

/**
 * @param {Record<string, string | undefined>} changes
 * @param {{ only?: boolean, replace?: boolean }} [options]
 */
function go(changes, { replace = false, ...options } = {}) {
  history[replace ? 'replaceState' : 'pushState'](undefined, '', addressOf(changes, options))
  render()
}

/** @param {Record<string, string | undefined>} changes @param {string} text @param {Record<string, unknown>} [properties] */
function link(changes, text, properties = {}) {
  const anchor = h('a', { ...properties, href: addressOf(changes) }, text)
  anchor.addEventListener('click', (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.button > 0) return
    event.preventDefault()
    go(changes)
  })
  return anchor
}

function render() {
  const params = new URLSearchParams(location.search)
  const namespace = params.get('namespace') ?? about.namespaces[0] ?? ''
  const lease = params.get('lease')
  const focused = document.activeElement?.id
  endView()
  bindings = {}
  namespaces.replaceChildren(
    ...about.namespaces.map((name) => h('option', { value: name, selected: name === namespace }, name)),
  )
  document.title = title
  /** @type {Host} */
  const host = {
    about,
    title,
    namespace,
    params,
    main,
    go: (changes, replace = false) => go({ namespace, ...changes }, { replace }),
    link: (changes, text, properties) => link({ namespace, ...changes }, text, properties),
    keys: (added) => (bindings = added),
    connection: (connection, pulse) => {
      last = { connection, pulse }
      showConnection()
    },
  }
  setAttribute(document.body, 'data-view', lease === null ? 'list' : 'lease')
  endView = lease === null ? showList(host) : showLease(host, lease)
  // The filter keeps the focus, and the place in its text, while the list changes.
  if (focused !== 'filter') return
  const filter = /** @type {HTMLInputElement | null} */ (document.getElementById('filter'))
  filter?.focus()
  filter?.setSelectionRange(filter.value.length, filter.value.length)
}

function showConnection() {
  const { connection, pulse } = last
  const isTrouble = pulse?.trouble !== undefined || connection === 'offline'
  // The console answers before the store has.
  const shown = connection === 'live' && pulse?.readMs === undefined ? 'connecting' : connection
  setText(status, isTrouble && connection !== 'offline' ? 'Store away' : CONNECTIONS[shown])
  setAttribute(status, 'data-state', isTrouble ? 'trouble' : shown)
  trouble.hidden = !isTrouble
  if (!isTrouble) return
  const age = pulse?.readMs === undefined ? undefined : inWords(Math.max(0, serverNow() - pulse.readMs))
  const seen = age === undefined ? 'Nothing was read yet.' : `What you see was read ${age} ago.`
  const why =
    connection === 'offline' ? 'The console does not answer.' : `The store does not answer: ${pulse?.trouble}.`
  setText(trouble, `${why} ${seen} This page goes on trying.`)
}
everyTick(() => {
  if (!trouble.hidden) showConnection()
})

document.addEventListener('keydown', (event) => {
  const target = /** @type {HTMLElement} */ (event.target)
  if (event.metaKey || event.ctrlKey || event.altKey || document.querySelector('dialog[open]') !== null) return
  if (target.matches('input, select, textarea')) {
    if (event.key === 'Escape') target.blur()
    else if (event.key !== 'ArrowDown' || !target.matches('.filter')) return
  }
  const action = bindings[event.key]
  if (action === undefined) return
  event.preventDefault()
  action()
})
home.addEventListener('click', (event) => {
  event.preventDefault()
  go({}, { only: true })
})
addEventListener('popstate', render)

async function start() {
  try {
    const response = await fetch(`${base}/api/console`)
    if (!response.ok) throw new Error(`the console answered ${response.status}`)
    about = await response.json()
  } catch {
    setText(status, CONNECTIONS.offline)
    setAttribute(status, 'data-state', 'trouble')
    setTimeout(() => void start(), 3000)
    return
  }
  if (about.environment !== undefined) {
    badge.hidden = false
    setText(badge, about.environment)
    setAttribute(
      badge,
      'data-kind',
      /^prod/i.test(about.environment) ? 'production' : /^stag/i.test(about.environment) ? 'staging' : 'other',
    )
  }
  namespaces.hidden = about.namespaces.length < 2
  render()
}
void start()
