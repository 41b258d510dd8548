"""The site: nbdev's processed notebooks, pages made from the library and from `bench/`, and Sphinx"""
