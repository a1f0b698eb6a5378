/** The dialog before an action: what it does, the name to type, and what came of it. */
import { base, h, timeOfDay } from './dom.js'

/** @import { LeaseRow } from '../snapshot.ts' */

/**
 * @typedef {object} Asked
 * @property {'revoke' | 'pin' | 'unpin'} what
 * @property {string} namespace
 * @property {LeaseRow} row as it was on screen: exactly this term is revoked
 * @property {string | undefined} entity of the pin to remove
 */

const WORDS = {
  revoke: { title: 'Revoke this term', button: 'Revoke' },
  pin: { title: 'Pin this lease', button: 'Pin' },
  unpin: { title: 'Unpin this lease', button: 'Unpin' },
}

/**
 * Asks, then acts. Resolves with what came of it; undefined: the operator has cancelled.
 *
 * @param {Asked} asked
 * @returns {Promise<{ ok: boolean, message: string } | undefined>}
 */
export function confirmAction({ what, namespace, row, entity }) {
  const { lease, holder, fencingToken, expiresMs } = row
  const { title, button } = WORDS[what]
  const confirm = h('input', {
    id: 'confirm',
    autocomplete: 'off',
    spellcheck: false,
    class: 'name',
    'aria-describedby': 'effect',
  })
  const entityInput = h('input', {
    id: 'entity',
    autocomplete: 'off',
    spellcheck: false,
    class: 'name',
    maxLength: 255,
  })
  const submit = h(
    'button',
    { type: 'submit', class: what === 'revoke' ? 'danger' : 'primary', disabled: true },
    button,
  )
  const cancel = h('button', { type: 'button', click: () => dialog.close() }, 'Cancel')
  const effects = {
    revoke: [
      h('b', { class: 'name' }, holder ?? ''),
      ` loses the term with the fencing token ${fencingToken}, but may go on relying on it until ${timeOfDay(expiresMs ?? 0)}.`,
      ' Guards refuse its writes at once. If another term is current by now, nothing happens.',
    ],
    pin: [
      'The lease, or its next term if it is vacant, does not expire while it is pinned. Say who pins it, such as your name.',
    ],
    unpin: [
      'The pin of ',
      h('b', { class: 'name' }, entity ?? ''),
      ' ends. If no other pin is left, the lease expires when its time runs out, or at once if it has.',
    ],
  }
  const check = () => {
    submit.disabled = confirm.value !== lease || (what === 'pin' && entityInput.value === '')
  }
  const form = h(
    'form',
    { input: check },
    h('h2', { id: 'dialog-title' }, title),
    h('p', { id: 'effect' }, ...effects[what]),
    ...(what === 'pin' ? [h('label', { for: 'entity' }, 'Pinned by'), entityInput] : []),
    h('label', { for: 'confirm' }, 'Type ', h('code', { class: 'name' }, lease), ' to confirm'),
    confirm,
    h('div', { class: 'buttons' }, submit, cancel),
  )
  const dialog = h('dialog', { 'aria-labelledby': 'dialog-title' }, form)
  document.body.append(dialog)
  dialog.showModal()
  ;(what === 'pin' ? entityInput : confirm).focus()

  return new Promise((resolve) => {
    let isSent = false
    form.addEventListener('submit', (event) => {
      event.preventDefault()
      isSent = true
      const by = what === 'pin' ? entityInput.value : entity
      const body = { namespace, lease, fencingToken, entity: by, confirm: confirm.value }
      dialog.close()
      void post(`/api/${what}`, body).then(resolve)
    })
    dialog.addEventListener('close', () => {
      dialog.remove()
      if (!isSent) resolve(undefined)
    })
  })
}

/**
 * @param {string} path
 * @param {object} body
 */
async function post(path, body) {
  try {
    const response = await fetch(base + path, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-lease-console': '1' },
      body: JSON.stringify(body),
    })
    const { message, error } = await response.json()
    const hidden = 'Nothing was done: you may not do this, or there is no such lease.'
    return { ok: response.ok, message: response.status === 404 ? hidden : (message ?? error) }
  } catch {
    return { ok: false, message: 'The console did not answer: the action may have taken effect.' }
  }
}
