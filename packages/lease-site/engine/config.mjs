/** The configuration of VitePress. `pages.json` beside it is written by `src/build.ts`: the pages that the side bar names. */
import { readFileSync } from 'node:fs'
import { defineConfig } from 'vitepress'

const { sidebar } = JSON.parse(readFileSync(new URL('pages.json', import.meta.url), 'utf8'))

/** As GitHub does it, so that a link to a heading works on both. */
const slugify = (text) =>
  text
    .trim()
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}\p{M}\s_-]/gu, '')
    .replaceAll(/\s/g, '-')

// oxlint-disable-next-line import/no-default-export -- VitePress wants it so
export default defineConfig({
  lang: 'en',
  title: 'lease',
  description: 'Leases and locks for Node.js that hold when a process is paused',
  head: [['link', { rel: 'icon', type: 'image/svg+xml', href: '/favicon.svg' }]],
  cleanUrls: false,
  lastUpdated: false,
  markdown: { anchor: { slugify }, theme: { light: 'github-light', dark: 'github-dark' } },
  themeConfig: {
    search: { provider: 'local' },
    outline: [2, 3],
    nav: [
      { text: 'Quick start', link: '/quick-start' },
      { text: 'Which lock?', link: '/which-lock' },
      { text: 'Guarantees', link: '/guarantees' },
      { text: 'Comparison', link: '/comparison' },
      { text: 'API', link: '/api/' },
    ],
    sidebar,
  },
})
