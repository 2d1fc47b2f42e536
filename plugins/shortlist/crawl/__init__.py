"""Reading a catalogue from the pages of a web site.

Scrapy fetches and takes apart the pages in a process of its own and leaves one file a page (`spider`, `process`,
`pages`); what they hold is judged afterwards, from those files alone (`items`), and becomes one table (`results`). So a
crawl that is killed goes on with the pages it lacks, and its result does not tell in how many attempts it was made.
"""
