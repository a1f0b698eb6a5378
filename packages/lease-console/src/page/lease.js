/** One lease: its term, its pins, what changed since the page was opened, and the actions. */
import { Countdown, dayAndTime, everyTick, h, inWords, serverNow, setAttribute, setText, timeOfDay } from './dom.js'
import { live } from './live.js'
import { confirmAction } from './actions.js'

/** @import { LeaseRow } from '../snapshot.ts' */
/** @import { Host } from './app.js' */

/** How many changes are kept. */
const MOST_CHANGES = 100

/**
 * Shows one lease. Returns what ends it.
 *
 * @param {Host} host
 * @param {string} lease
 */
export function showLease(host, lease) {
  const { about, params } = host
  const wantsValues = about.showValues && params.get('values') === 'true'
  /** @type {LeaseRow | undefined} */
  let row

  const state = h('span', { class: 'pill' })
  const holder = h('dd', { class: 'name' })
  const since = h('dd')
  const countdown = new Countdown()
  const until = h('span', { class: 'quiet' })
  const token = h('dd', { class: 'token' })
  const waiting = h('dd')
  const pins = h('dd', { class: 'chips' })
  const value = h('span', { class: 'value' })
  const changes = h('ol', { class: 'changes' })
  const none = h('p', { class: 'quiet' }, 'Nothing has changed since this page was opened.')
  const result = h('div', { class: 'result', role: 'status', tabIndex: -1, hidden: true })

  const revoke = h('button', { type: 'button', class: 'danger', click: () => void ask('revoke') }, 'Revoke this term…')
  const pin = h('button', { type: 'button', click: () => void ask('pin') }, 'Pin…')
  const actions = about.readOnly
    ? h('p', { class: 'quiet' }, 'This console is read-only.')
    : h('div', { class: 'buttons' }, revoke, pin)

  /** @param {'revoke' | 'pin' | 'unpin'} what @param {string} [entity] */
  const ask = async (what, entity) => {
    if (row === undefined) return
    const answer = await confirmAction({ what, namespace: host.namespace, row, entity })
    if (answer === undefined) return
    result.hidden = false
    setAttribute(result, 'data-ok', String(answer.ok))
    setText(result, answer.message)
    result.focus()
  }

  const back = host.link({ lease: undefined }, `‹ ${host.namespace}`, { class: 'back' })
  const valueToggle = about.showValues
    ? h(
        'button',
        { type: 'button', class: 'link', click: () => host.go({ values: wantsValues ? undefined : 'true' }) },
        wantsValues ? 'Hide' : 'Show the value',
      )
    : undefined
  /** @param {string} term @param {Node} description */
  const fact = (term, description) => h('div', {}, h('dt', {}, term), description)
  host.main.replaceChildren(
    back,
    h('div', { class: 'title' }, h('h1', { class: 'name' }, lease), state),
    result,
    h(
      'div',
      { class: 'columns' },
      h(
        'section',
        { class: 'card padded', 'aria-label': 'Term' },
        h(
          'dl',
          { class: 'facts' },
          fact('Holder', holder),
          fact('Held since', since),
          fact('Expires in', h('dd', { class: 'until' }, countdown.element, until)),
          fact('Fencing token', token),
          fact('Waiting', waiting),
          fact('Pinned by', pins),
          ...(about.showValues ? [fact('Value', h('dd', {}, ...(wantsValues ? [value, ' '] : []), valueToggle))] : []),
        ),
        actions,
      ),
      h(
        'section',
        { class: 'card padded', 'aria-label': 'Changes' },
        h('h2', {}, 'Seen since this page was opened'),
        none,
        changes,
      ),
    ),
  )
  document.title = `${lease} · ${host.title}`

  /** @param {{ row?: LeaseRow }} news */
  const update = ({ row: next }) => {
    if (next === undefined) return
    const isVacant = next.holder === undefined
    for (const change of changesBetween(row, next)) {
      none.hidden = true
      changes.prepend(h('li', {}, h('time', {}, timeOfDay(serverNow())), h('span', {}, change)))
      if (changes.children.length > MOST_CHANGES) changes.lastElementChild?.remove()
    }
    row = next
    const isPinned = next.pinnedBy.length > 0
    setText(state, isVacant ? 'vacant' : isPinned ? 'held, pinned' : 'held')
    setAttribute(state, 'data-state', isVacant ? 'vacant' : isPinned ? 'pinned' : 'held')
    setText(holder, isVacant ? 'nobody' : `${next.holder}${next.weight === undefined ? '' : `, weight ${next.weight}`}`)
    setText(token, next.fencingToken ?? '–')
    setText(waiting, waitingInWords(next.waiting))
    setText(value, next.value ?? (isVacant ? '–' : 'none'))
    countdown.set(next.expiresMs, isPinned)
    setText(until, next.expiresMs === undefined ? '' : `at ${timeOfDay(next.expiresMs)}, unless it is renewed`)
    revoke.disabled = isVacant
    const chips = next.pinnedBy.map((entity) =>
      chip(entity, about.readOnly ? undefined : () => void ask('unpin', entity)),
    )
    const before = [...pins.children].map((one) => one.getAttribute('data-entity')).join('\n')
    if (before !== next.pinnedBy.join('\n') || chips.length === 0)
      pins.replaceChildren(...(chips.length > 0 ? chips : ['nobody']))
    tick()
  }
  const tick = () => {
    if (row === undefined) return
    const { holder: who, sinceMs } = row
    const known = sinceMs === undefined ? 'unknown: this store does not keep it' : dayAndTime(sinceMs)
    const age = sinceMs === undefined ? '' : ` (${inWords(Math.max(0, serverNow() - sinceMs))})`
    setText(since, who === undefined ? '–' : known + age)
    countdown.tick()
  }

  host.keys({
    Escape: () => back.click(),
    r: () => !about.readOnly && !revoke.disabled && revoke.click(),
  })
  const wanted = new URLSearchParams({ namespace: host.namespace, lease })
  if (wantsValues) wanted.set('values', 'true')
  const endTicks = everyTick(tick)
  const endLive = live({
    path: '/api/lease',
    params: wanted,
    onState: update,
    onConnection: host.connection,
    onMissing: () => {
      host.main.replaceChildren(back, h('p', { class: 'empty' }, 'There is nothing here, or you may not see it.'))
    },
  })
  return () => {
    endTicks()
    endLive()
  }
}

/** @param {number | undefined} waiting */
function waitingInWords(waiting) {
  if (waiting === undefined) return 'unknown: this store keeps no queue'
  if (waiting === 0) return 'nobody'
  return waiting === 1 ? 'at most 1 process' : `at most ${waiting} processes`
}

/**
 * @param {string} entity
 * @param {(() => void) | undefined} unpin
 */
function chip(entity, unpin) {
  const button =
    unpin === undefined
      ? undefined
      : h('button', { type: 'button', class: 'link', 'aria-label': `Unpin ${entity}`, click: unpin }, 'Unpin…')
  return h('span', { class: 'chip', 'data-entity': entity }, h('span', { class: 'name' }, entity), button)
}

/**
 * What happened between two states, in words. A state that ended before it was read is not seen.
 *
 * @param {LeaseRow | undefined} before
 * @param {LeaseRow} after
 * @returns {string[]}
 */
function changesBetween(before, after) {
  if (before === undefined) return []
  const changes = []
  if (before.fencingToken !== after.fencingToken) {
    if (before.holder !== undefined)
      changes.push(`The term of ${before.holder} ended (fencing token ${before.fencingToken}).`)
    if (after.holder !== undefined) changes.push(`${after.holder} holds it (fencing token ${after.fencingToken}).`)
  }
  for (const entity of after.pinnedBy) if (!before.pinnedBy.includes(entity)) changes.push(`${entity} pinned it.`)
  for (const entity of before.pinnedBy)
    if (!after.pinnedBy.includes(entity)) changes.push(`The pin of ${entity} ended.`)
  if (before.fencingToken === after.fencingToken && before.value !== after.value) changes.push('Its value changed.')
  return changes
}
